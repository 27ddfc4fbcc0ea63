"""What losses are computed from → `Criteria`, while graphs are walked: in the first updates, then ever more rarely.

Only then are the losses of `torch.nn.functional` listened to, and batches and arguments of models handed on.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

from loopkit.criteria import Criteria
from loopkit.lossmean import Criterion
from loopkit.run import Run
from loopkit.taps.losscalls import LossCalls, is_plain
from loopkit.taps.patch import Handle, opaque

_NAME = "values"
_LOSS, _MODEL = 17, 18
"""Stand for these calls among those whose last site is remembered; events of an update have smaller numbers."""


def install(run: Run) -> Handle:
    """Listen to losses, models and batches while graphs are walked."""
    return _Values(run)


class _Values:
    """Hands on what is heard, with the place it came from."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._criteria = run.instrument(Criteria)
        self._calls = run.instrument(LossCalls)
        self._listening = False
        run.recorder.on_walking = self._plan
        self._plan(run.recorder.losses.walking)

    def undo(self) -> None:
        """Listen to nothing."""
        self._run.recorder.on_walking = None
        self._stop()

    def _plan(self, walking: bool) -> None:
        """An update closed: graphs are walked in the next one, or not."""
        self._criteria.forget()
        if walking and not self._listening and self._criteria.error is None:
            self._listening = True
            recorder = self._run.recorder
            recorder.on_batch, recorder.on_forward = self._batch, self._forward
            recorder.losses.on_walk = self._sent
            self._calls.start(self._run, _NAME, self._called)
        elif not walking and self._listening:
            self._stop()

    def _stop(self) -> None:
        self._listening = False
        recorder = self._run.recorder
        recorder.on_batch = recorder.on_forward = recorder.losses.on_walk = None
        self._calls.stop(_NAME)

    def _batch(self, batch: Any) -> None:
        self._guarded(lambda: self._criteria.batch(batch, self._number()))

    def _forward(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        site = self._run.recorder.sites.here(_MODEL, brief=True)
        self._guarded(lambda: self._criteria.forward(module, args, kwargs, site, self._number()))

    def _called(self, criterion: Criterion, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        recorder = self._run.recorder
        if not torch.is_grad_enabled() or recorder.in_backward or not is_plain(result) or not result.requires_grad:
            return
        site = recorder.sites.here(_LOSS, brief=True)
        self._guarded(lambda: self._criteria.called(criterion, args, kwargs, result, site, self._number()))

    def _sent(self, walk: Any) -> None:
        is_hooked = self._run.recorder.losses.graph.is_hooked
        self._guarded(lambda: self._criteria.sent(walk, self._number(), is_hooked))

    def _number(self) -> int:
        """Of the update that is under way."""
        return self._run.recorder.history.updates + 1

    def _guarded(self, action: Callable[[], None]) -> None:
        """An unheard-of kind of tensor costs these checks, not the others."""
        try:
            action()
        except Exception as error:
            self._criteria.error = error
            self._stop()
            self._run.could_not_check("*", f"the values of a loss could not be read: {error!r}")
            if os.environ.get("LOOPKIT_RAISE"):
                raise


for function in (_Values._called, _Values._batch, _Values._forward, _Values._sent, _Values._plan):
    opaque(function, callees=True)
