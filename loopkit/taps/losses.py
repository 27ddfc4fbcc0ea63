"""The losses of `torch.nn.functional`, as training calls them → where the losses of a graph were made.

Heard from a forward to its backward in the updates whose graphs are walked, and in no others.
"""

from __future__ import annotations

from typing import Any

import torch

from loopkit.lossmean import Criterion
from loopkit.run import Run
from loopkit.taps.losscalls import LossCalls
from loopkit.taps.patch import Handle, opaque

_NAME = "training"
_LOSS = 19
"""Stands for these calls among those whose last site is remembered."""


def install(run: Run) -> Handle:
    """Listen to losses when asked to."""
    return _Losses(run)


class _Losses:
    def __init__(self, run: Run) -> None:
        self._run = run
        self._calls = run.instrument(LossCalls)
        run.recorder.losses.making.on_watch = self._switch

    def undo(self) -> None:
        """Listen no more."""
        self._run.recorder.losses.making.on_watch = None
        self._calls.stop(_NAME)

    def _switch(self, on: bool) -> None:
        if on:
            self._calls.start(self._run, _NAME, self._made)
        else:
            self._calls.stop(_NAME)

    def _made(self, criterion: Criterion, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        recorder = self._run.recorder
        if torch.is_grad_enabled() and not recorder.in_backward and recorder.losses.walking:
            recorder.losses.making.called(criterion.kind, recorder.sites.here(_LOSS), args, result)


opaque(_Losses._made, callees=True)
opaque(_Losses._switch, callees=True)
