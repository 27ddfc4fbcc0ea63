"""Parts of models that gradients reach and nobody steps, or that are stepped and no gradient reaches: plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stray:
    """Parameters that a loss reaches and that no optimizer of the run has ever owned, by where they live.

    Args:
        name: the module or plain object that holds them, from the outermost module on: `Net.blocks`.
        first: the first of them: `Net.blocks[0].weight`.
        root: class of the outermost module they were found in.
        parameters, elements: how many tensors, and how many numbers in them.
        loose: they lie in a plain list, tuple, dict or object, where no module registers them.
        alone: no optimizer owns any parameter of that outermost module.
        training: the module that holds them is in training mode.
        beside: some optimizer owns parameters of another module of the run: inputs alone are not what is optimized.
        updates: how many updates they have kept the values they had when a loss was first seen to reach them.
        walks: in how many walked losses they were met.
    """

    name: str
    first: str
    root: str
    parameters: int
    elements: int
    loose: bool
    alone: bool
    training: bool
    beside: bool
    updates: int
    walks: int


@dataclass(frozen=True, slots=True)
class Missed:
    """A module whose trainable parameters an optimizer owns, and none of which has ever had a gradient at a step.

    Args:
        name: from the outermost module on: `Net.head`.
        parameters, elements: how many tensors, and how many numbers in them.
        called: it was called in training mode with gradients on.
        own: it is put together by a class of the user's own, not by one of an installed package.
        updates: how many updates it has kept its values.
    """

    name: str
    parameters: int
    elements: int
    called: bool
    own: bool
    updates: int
