"""`clip_grad_norm_`, `clip_grads_with_norm_` and `clip_grad_value_` → `before_clip`, `gradients_clipped`.

`clip_grad_norm_` calls an inner helper through its module, which therefore hears it however a user imported the
public name. `clip_grad_value_` has no such helper: imported by name before the watch opened, it goes unheard,
and the ledger takes it for a change by hand.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch.nn.utils import clip_grad

from loopkit.run import Run
from loopkit.taps.patch import Handle, Tap, Taps


def install(run: Run) -> Handle:
    """Listen to clipping."""
    asked = [Tap(clip_grad, "_get_total_norm", run, _asked)] if "before_clip" in run.heard else []
    return Taps(
        *asked,
        Tap(clip_grad, "_clip_grads_with_norm_", run, _before, _by_norm),
        Tap(clip_grad, "clip_grad_value_", run, _before_value, _by_value),
        Tap(torch.nn.utils, "clip_grad_value_", run, _before_value, _by_value),
    )


def _parameters(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor] | None:
    """What was clipped; None for a generator, which is used up by now."""
    given = args[0] if args else kwargs.get("parameters", ())
    if isinstance(given, torch.Tensor):
        return [given]
    if isinstance(given, list):
        return given
    return list(given) if isinstance(given, Collection) else None


def _asked(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    run.emit("before_clip")


def _before(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    run.recorder.look_before_change()


def _before_value(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    run.recorder.look_before_change()
    if "before_clip" in run.heard:
        run.emit("before_clip")


def _by_norm(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    limit = args[1] if len(args) > 1 else kwargs.get("max_norm", 0.0)
    norm = args[2] if len(args) > 2 else kwargs.get("total_norm")
    _clipped(run, _parameters(args, kwargs), limit, norm)


def _by_value(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    limit = args[1] if len(args) > 1 else kwargs.get("clip_value", 0.0)
    _clipped(run, _parameters(args, kwargs), limit, None)


def _clipped(run: Run, parameters: list[torch.Tensor] | None, limit: Any, norm: Any) -> None:
    # A limit that is a tensor may live on a device: it is not read.
    number = float(limit) if isinstance(limit, (int, float)) else float("nan")
    run.recorder.clipped(parameters, number, norm)
    if "gradients_clipped" in run.heard:
        run.emit("gradients_clipped", parameters=parameters or [], limit=float(limit), total_norm=norm)
