"""Parts of models that gradients reach and nobody steps, or that are stepped and no gradient reaches: plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loopkit.callsite import Site


@dataclass(frozen=True, slots=True)
class Stray:
    """Parameters that a loss reaches and that no optimizer of the run has ever owned, by where they live.

    Args:
        name: the module or plain object that holds them, from the outermost module on: `Net.blocks`.
        first: the first of them: `Net.blocks[0].weight`.
        root: class of the outermost module they were found in.
        parameters, elements: how many tensors, and how many numbers in them.
        loose: they lie in a plain list, tuple, dict or object, where no module registers them.
        alone: no optimizer owns any parameter of that outermost module, or seems to have been meant to.
        training: the module that holds them is in training mode.
        beside: some optimizer owns parameters of another module of the run: inputs alone are not what is optimized.
        updates: how many updates they have kept the values they had when a loss was first seen to reach them.
        walks: in how many walked losses they were met.
        norms: they are all those of normalization layers.
        replaced: of how many an optimizer holds one of the same shape that no module has and no loss reaches.
        empty: that optimizer has a parameter group that holds nothing.
        optimizer, made: label of the optimizer that should have them, and where it was constructed.
        ids: of the first of them, to be compared with those that optimizers come to own later.
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
    norms: bool = False
    replaced: int = 0
    empty: bool = False
    optimizer: str = ""
    made: Site | None = None
    ids: tuple[int, ...] = ()


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
