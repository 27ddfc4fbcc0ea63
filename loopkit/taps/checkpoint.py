"""`torch.utils.checkpoint.checkpoint(…, use_reentrant=True)` → `checkpoint_cut`, where no gradient can pass.

`checkpoint` is imported by name everywhere. It calls `CheckpointFunction.apply` through the class, which is heard
however the public name was imported, and before autograd switches gradients off inside the function.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.checkpoint import CheckpointFunction

from loopkit.run import Run
from loopkit.taps.patch import Handle, Tap

_KIND = 16
"""Stands for this call among those whose last site is remembered; events of an update have smaller numbers."""


def install(run: Run) -> Handle:
    """Listen to reentrant checkpoints."""
    return Tap(CheckpointFunction, "apply", run, _before)


def _before(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if not torch.is_grad_enabled() or run.recorder.in_backward or any(map(_requires_grad, args[2:])):
        return
    site = run.recorder.sites.here(_KIND)
    run.emit("checkpoint_cut", function=args[0], args=args[2:], site=site)


def _requires_grad(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.requires_grad
    if isinstance(value, dict):
        return any(map(_requires_grad, value.values()))
    return isinstance(value, (list, tuple)) and any(map(_requires_grad, value))
