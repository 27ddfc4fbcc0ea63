"""What of a loop is seen to be trained: models, optimizers, schedulers, scalers."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from loopkit import Models

from .content import model_state, plain
from .files import CheckpointError

if TYPE_CHECKING:
    import torch

    from loopkit import Run

_RECENT = 64
"""Steps after which an optimizer that made none of them is no part of the training that goes on."""


class Seen:
    """The objects of a loop, in the order they were first seen.

    All are known weakly, but for the models and optimizers of the last steps: a function that trains is often over
    before the run is, and its last state is to be written.
    """

    def __init__(self) -> None:
        self._kinds: dict[str, dict[int, weakref.ref[Any]]] = {"optimizers": {}, "schedulers": {}, "scalers": {}}
        self._stepped: dict[int, int] = {}
        self._held: dict[int, Any] = {}

    def met(self, kind: str, thing: Any) -> None:
        """An object took part."""
        known = self._kinds[kind]
        alive = known.get(id(thing))
        if alive is None or alive() is not thing:
            known.pop(id(thing), None)
            known[id(thing)] = weakref.ref(thing)
        if kind != "optimizers" and id(thing) not in self._held:
            self._held[id(thing)] = thing

    def stepped(self, run: Run, optimizer: torch.optim.Optimizer) -> None:
        """An optimizer executed a step."""
        self._stepped[id(optimizer)] = run.steps
        if id(optimizer) in self._held:
            return
        self.met("optimizers", optimizer)
        recent = {key for key, step in self._stepped.items() if run.steps - step < _RECENT}
        self._stepped = {key: self._stepped[key] for key in recent}
        self._held = {}  # what was trained before may go
        optimizers = [each for each in self._alive("optimizers") if id(each) in recent]
        things = [*optimizers, *_trained(run, optimizers), *self._alive("schedulers"), *self._alive("scalers")]
        self._held = {id(each): each for each in things}

    def release(self) -> None:
        """The run is over."""
        self._held = {}

    def content(self, run: Run, left_out: list[str]) -> dict[str, Any]:
        """All that is needed to go on but random states, of a run that has a `Loop` and of one that has none.

        Args:
            run: the watched run.
            left_out: what cannot be stored is added to it, with the reason.

        Raises:
            CheckpointError: the models are gone, or cannot be stored.
        """
        content: dict[str, Any] = {"plugins": _plugins(run, left_out)}
        if run.loop is not None:
            content["loop"] = plain(run.loop.state_dict(), "the state of the loop")
            return content
        content["models"] = [model_state(each) for each in _trained(run, self._alive("optimizers"))]
        if not content["models"]:
            raise CheckpointError("no model that is trained is known")
        for kind in self._kinds:
            states = (_state(each, left_out) for each in self._alive(kind))
            content[kind] = [state for state in states if state is not None]
        return content

    def _alive(self, kind: str) -> list[Any]:
        return [each for each in (known() for known in self._kinds[kind].values()) if each is not None]


def _trained(run: Run, optimizers: list[torch.optim.Optimizer]) -> list[torch.nn.Module]:
    """The outermost models that these optimizers step: no teacher, no criterion."""
    stepped = {id(each) for optimizer in optimizers for group in optimizer.param_groups for each in group["params"]}
    roots = run.instrument(Models).roots()
    return [each for each in roots if any(id(parameter) in stepped for parameter in each.parameters())]


def _plugins(run: Run, left_out: list[str]) -> list[Mapping[str, Any]]:
    having = [each for _, each in run.manager.plugins() if callable(getattr(each, "state_dict", None))]
    states = (_state(each, left_out) for each in having)
    return [state for state in states if state is not None]


def _state(thing: Any, left_out: list[str]) -> dict[str, Any] | None:
    name = type(thing).__name__
    try:
        return {"class": name, "state": plain(thing.state_dict(), f"the state of {name}")}
    except CheckpointError as error:
        left_out.append(str(error))
        return None
