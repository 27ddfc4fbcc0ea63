"""Loops in mixed precision, on the CPU: what of them is torch's GradScaler and autocast is the same on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.loops import batches, loss_of, model

Step = Callable[[nn.Module, torch.optim.Optimizer, torch.amp.GradScaler], Any]


def half(net: nn.Module, x: Tensor, y: Tensor, dtype: torch.dtype = torch.float16) -> Tensor:
    """A loss under autocast."""
    with torch.autocast("cpu", dtype=dtype):
        return loss_of(net(x).float(), y)


def scaled(step: Step, steps: int = 4, **options: Any) -> None:
    """A loop with a GradScaler whose gradients `step` deals with."""
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.001)
    scaler = torch.amp.GradScaler("cpu", **{"init_scale": 1024.0, **options})
    for x, y in batches(steps):
        optimizer.zero_grad()
        scaler.scale(half(net, x, y)).backward()
        step(net, optimizer, scaler)
