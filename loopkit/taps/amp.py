"""`GradScaler`: `unscale_` → `gradients_unscaled`; a `step` that found a non-finite gradient → `step_skipped`."""

from __future__ import annotations

from typing import Any

import torch

from loopkit.run import Run
from loopkit.scaling import Scales
from loopkit.taps.patch import Handle, Tap, Taps


def install(run: Run) -> Handle:
    """Listen to every GradScaler."""
    steps = _Steps()
    return Taps(
        Tap(torch.amp.GradScaler, "scale", run, after=_scaled),
        Tap(torch.amp.GradScaler, "unscale_", run, _before_unscale, _unscaled),
        Tap(torch.amp.GradScaler, "step", run, steps.before, steps.after),
    )


def _optimizer(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[1] if len(args) > 1 else kwargs.get("optimizer")


def _scaled(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    scale = getattr(args[0], "_scale", None)
    if isinstance(scale, torch.Tensor):
        run.recorder.losses.graph.scales_with(scale)
        run.instrument(Scales).met(args[0])


def _before_unscale(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    run.recorder.look_before_change()


def _unscaled(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    optimizer = _optimizer(args, kwargs)
    if isinstance(optimizer, torch.optim.Optimizer):
        run.recorder.unscaled(optimizer, args[0])
        if "gradients_unscaled" in run.heard:
            run.emit("gradients_unscaled", optimizer=optimizer, scaler=args[0])


class _Steps:
    """Tells an executed step from a skipped one by the optimizer's own count of them."""

    def __init__(self) -> None:
        self._before = 0
        self._start = 0

    def before(self, run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        optimizer = _optimizer(args, kwargs)
        if isinstance(optimizer, torch.optim.Optimizer):
            self._before = run.recorder.steps_of(optimizer)
            self._start = run.recorder.events_so_far()

    def after(self, run: Run, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        optimizer = _optimizer(args, kwargs)
        if not isinstance(optimizer, torch.optim.Optimizer):
            return
        if getattr(args[0], "_enabled", True):
            run.recorder.steps_were_scaled(self._start)
        # A disabled scaler passes straight on to the optimizer, whose step is then counted like any other.
        if run.recorder.steps_of(optimizer) == self._before:
            run.recorder.step_skipped(optimizer)
            if "step_skipped" in run.heard:
                run.emit("step_skipped", optimizer=optimizer)
