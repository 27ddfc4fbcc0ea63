"""Loops with a loss of one's choice, and what their graphs said."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import loopkit
from loopkit import LossNode
from tests.watched import Updates


def loop_of(
    loss: Callable[[nn.Module, Tensor], Tensor],
    model: Callable[[], nn.Module] = lambda: nn.Linear(4, 1),
    make: Callable[[], Tensor] = lambda: torch.randn(8, 4),
    steps: int = 4,
) -> Callable[[], None]:
    """A loop with this loss of the model and a batch of inputs."""

    def loop() -> None:
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        for _ in range(steps):
            optimizer.zero_grad()
            loss(net, make()).backward()
            optimizer.step()

    return loop


def graph_of(
    loss: Callable[[nn.Module, Tensor], Tensor],
    model: Callable[[], nn.Module] = lambda: nn.Linear(4, 1),
    make: Callable[[], Tensor] = lambda: torch.randn(8, 4),
) -> tuple[LossNode, ...]:
    """The loss functions in the graph of this loss."""
    seen = Updates()
    with loopkit.watch(autoload=False, plugins=[seen]):
        loop_of(loss, model, make, steps=1)()
    ((_, reading),) = seen.seen[0].losses()
    return reading.nodes
