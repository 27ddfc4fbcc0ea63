"""Weights that a save helper has emptied on the way to the file."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch

from loopkit import Confidence, Finding, Run, Severity, Site, hookimpl

_MODELS = 16
_MEMBERS = 64
_SHOWN = 3


class SavedWeightsEmpty:
    """Weights are written to a file without elements, where the model's parameters of these names have some.

    What it looks for
        An object given to `torch.save`, or a mapping in it, with tensors of no elements under names of parameters of
        a module whose `state_dict()` was taken in this run, and which have elements there. With the name as it is, or
        behind one prefix.

    Why that hurts
        Nothing fails until the file is read, when training is over: these weights are lost.

    A loop that has it
        state = model.state_dict()
        for name in shared:
            state[name] = torch.empty(0)            # and who was to keep the other copy did not
        torch.save(state, "last.pt")

    The repair
        Look at what is done to the state between `state_dict()` and `torch.save`; of sharded weights save the whole
        ones, as the library that shards them says.

    Left alone
        Weights that are left out, as those that are frozen, or tied to others; parameters that are empty in the model
        too, as those of other ranks; buffers.

    What it costs
        A look at the sizes of what is saved.
    """

    rule = "saved-weights-empty"
    severity = Severity.WARNING
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._models: list[Callable[[], torch.nn.Module | None]] = []

    @hookimpl
    def state_taken(self, owner: torch.nn.Module) -> None:
        """Remember whose it is."""
        if all(known() is not owner for known in self._models):
            alive = [known for known in self._models if known() is not None]
            self._models = [*alive[1 - _MODELS :], weakref.ref(owner)]

    @hookimpl
    def state_saved(self, run: Run, state: object, site: Site) -> Iterator[Finding]:
        """Compare the tensors without elements."""
        empty = [name for part in _mappings(state) for name, value in part.items() if _is_empty(name, value)]
        for known in self._models if empty else ():
            model = known()
            sizes = {name: each.numel() for name, each in model.named_parameters()} if model is not None else {}
            lost = [name for name in empty if sizes.get(name) or sizes.get(name.partition(".")[2])]
            if lost and model is not None:
                yield self._finding(type(model).__name__, lost, len(sizes), site)
                return

    def _finding(self, model: str, lost: list[str], parameters: int, site: Site) -> Finding:
        names = ", ".join(lost[:_SHOWN]) + (", …" if len(lost) > _SHOWN else "")
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=site.place,
            subject=model,
            seen=f"{len(lost)} of the {parameters} parameters of {model} are written without any element: {names}",
            why="the file does not hold these weights: they are lost when the run ends",
            remedy="save what state_dict() returns, or look at what empties it on the way",
            evidence={"lost": lost[:16], "save_frames": [str(each) for each in site.chain]},
        )


def _mappings(state: object) -> Iterator[Mapping[Any, Any]]:
    """An object that is saved and what it holds, as far as these are mappings."""
    if isinstance(state, Mapping):
        yield state
        yield from (each for each in islice(state.values(), _MEMBERS) if isinstance(each, Mapping))


def _is_empty(name: object, value: object) -> bool:
    return isinstance(name, str) and isinstance(value, torch.Tensor) and not value.numel()
