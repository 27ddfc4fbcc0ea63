"""What of a loop is seen to be trained: models, optimizers, schedulers, scalers. All are held weakly."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from loopkit import Models

from .content import model_state, plain, random_states
from .files import CheckpointError

if TYPE_CHECKING:
    from loopkit import Run


class Seen:
    """The objects of a loop, in the order they were first seen."""

    def __init__(self) -> None:
        self._kinds: dict[str, dict[int, weakref.ref[Any]]] = {"optimizers": {}, "schedulers": {}, "scalers": {}}

    def met(self, kind: str, thing: Any) -> None:
        """An object took part."""
        known = self._kinds[kind]
        alive = known.get(id(thing))
        if alive is None or alive() is not thing:
            known.pop(id(thing), None)
            known[id(thing)] = weakref.ref(thing)

    def content(self, run: Run, left_out: list[str]) -> dict[str, Any]:
        """All that is needed to go on, of a run that has a `Loop` and of one that has none.

        Args:
            run: the watched run.
            left_out: what cannot be stored is added to it, with the reason.
        """
        content: dict[str, Any] = {"step": run.steps, "random": random_states(), "plugins": _plugins(run, left_out)}
        if run.loop is not None:
            content["loop"] = plain(run.loop.state_dict(), "the state of the loop")
            return content
        roots = run.instrument(Models).roots()
        content["models"] = [model_state(each) for each in roots if any(True for _ in each.parameters())]
        for kind, known in self._kinds.items():
            alive = [each for each in (known() for known in known.values()) if each is not None]
            states = (_state(each, type(each).__name__, left_out) for each in alive)
            content[kind] = [state for state in states if state is not None]
        return content


def _plugins(run: Run, left_out: list[str]) -> list[Mapping[str, Any]]:
    having = [each for _, each in run.manager.plugins() if callable(getattr(each, "state_dict", None))]
    states = (_state(each, type(each).__name__, left_out) for each in having)
    return [state for state in states if state is not None]


def _state(thing: Any, name: str, left_out: list[str]) -> dict[str, Any] | None:
    try:
        return {"class": name, "state": plain(thing.state_dict(), f"the state of {name}")}
    except CheckpointError as error:
        left_out.append(str(error))
        return None
