"""A learning-rate scheduler's `step` → `scheduler_stepped`.

Constructors call their own `step` once, which tells where a scheduler was made, and `SequentialLR` and
`ChainedScheduler` call that of the schedulers they hold: neither is an event. Four of torch's schedulers define a
`step` of their own and are tapped there. The others are heard at the inner `_update_lr` (where torch has it):
`LRScheduler.step` warns with `stacklevel=2`, and a wrapper around it would make that warning name our file instead
of the user's.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch.optim import lr_scheduler

from loopkit.run import Run
from loopkit.taps.patch import Handle, Tap, Taps


def install(run: Run) -> Handle:
    """Listen to every scheduler class of torch."""
    depth = _Depth()
    classes = [
        value
        for value in vars(lr_scheduler).values()
        if inspect.isclass(value) and issubclass(value, lr_scheduler.LRScheduler) and "step" in vars(value)
    ]
    inner = [each for each in classes if "_update_lr" in vars(each)]
    return Taps(
        # `_update_lr` calls no other scheduler, so nothing need be counted on its way in.
        *(Tap(each, "_update_lr", run, after=depth.stepped) for each in inner),
        *(Tap(each, "step", run, depth.down, depth.up, depth.failed) for each in classes if each not in inner),
        *(Tap(each, "__init__", run, after=_made) for each in _SILENT),
    )


_SILENT = (lr_scheduler.SequentialLR, lr_scheduler.ChainedScheduler, lr_scheduler.ReduceLROnPlateau)
"""Their constructors call no `step` of their own."""


def _made(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    run.recorder.scheduler_made(args[0])


class _Depth:
    """Tells the outermost step from those it causes."""

    def __init__(self) -> None:
        self._depth = 0

    def down(self, run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._depth += 1

    def failed(self, run: Run) -> None:
        self._depth = max(0, self._depth - 1)

    def up(self, run: Run, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        self._depth = max(0, self._depth - 1)
        self.stepped(run, args, kwargs, result)

    def stepped(self, run: Run, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        scheduler = args[0]
        if self._depth:
            return
        # What `_is_being_built` says, without a call of it at every advance.
        if getattr(scheduler, "_is_initial", True) and _is_being_built(scheduler):
            run.recorder.scheduler_made(scheduler)
            return
        explicit = len(args) > 1 and args[1] is not None
        if kwargs and not explicit:
            explicit = any(given is not None for given in kwargs.values())
        run.recorder.scheduler_stepped(scheduler, explicit)
        if "scheduler_stepped" in run.heard:
            run.emit("scheduler_stepped", scheduler=scheduler)


def _is_being_built(scheduler: Any) -> bool:
    """Whether this is the step of its own constructor."""
    initial = getattr(scheduler, "_is_initial", None)
    if initial is not None:
        return bool(initial)
    return getattr(scheduler, "_step_count", 2) < 2  # older torch leaves no other mark
