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

from loopkit.recorder import Recorder
from loopkit.run import Run
from loopkit.taps.patch import Handle, Tap, Taps


def install(run: Run) -> Handle:
    """Listen to every scheduler class of torch."""
    classes = [
        value
        for value in vars(lr_scheduler).values()
        if inspect.isclass(value) and issubclass(value, lr_scheduler.LRScheduler) and "step" in vars(value)
    ]
    inner = [each for each in classes if "_update_lr" in vars(each)]
    return Taps(
        # `_update_lr` calls no other scheduler, so nothing need be counted on its way in.
        *(_advances(each, run) for each in inner),
        *(Tap(each, "step", run, _began, _ended, _failed) for each in classes if each not in inner),
        *(Tap(each, "__init__", run, after=_made) for each in _SILENT),
    )


_SILENT = (lr_scheduler.SequentialLR, lr_scheduler.ChainedScheduler, lr_scheduler.ReduceLROnPlateau)
"""Their constructors call no `step` of their own."""


def _advances(scheduler: type[Any], run: Run) -> Handle:
    if "scheduler_stepped" in run.heard:
        return Tap(scheduler, "_update_lr", run, after=_advanced)
    return Tap(scheduler, "_update_lr", run, after=Recorder.scheduler_ended, to_recorder=True)


def _made(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    run.recorder.scheduler_made(args[0])


def _began(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    run.recorder.schedulers_open += 1


def _failed(run: Run, *_: object) -> None:
    run.recorder.schedulers_open = max(0, run.recorder.schedulers_open - 1)


def _ended(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    _failed(run)
    _advanced(run, args, kwargs, result)
    if isinstance(args[0], lr_scheduler.ReduceLROnPlateau):
        run.recorder.scheduling.followed(args[0], args[1] if len(args) > 1 else kwargs.get("metrics"))


def _advanced(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    if run.recorder.scheduler_ended(args, kwargs) and "scheduler_stepped" in run.heard:
        run.emit("scheduler_stepped", scheduler=args[0])
