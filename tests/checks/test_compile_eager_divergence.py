"""compile-eager-divergence: a compiled model must have the gradients of the model as written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from loopkit import Confidence, Severity
from tests.watched import find, rules


def right(graph: torch.fx.GraphModule, examples: list[Tensor]) -> Callable[..., Any]:
    """A backend that runs the graph as it is."""
    return graph.forward


def wrong(graph: torch.fx.GraphModule, examples: list[Tensor]) -> Callable[..., Any]:
    """A backend with a bad pass: gradients are a third too large."""

    def run(*args: Any) -> Any:
        return tuple(out * 1.3 - (out * 0.3).detach() for out in graph.forward(*args))

    return run


def train(backend: Callable[..., Any]) -> None:
    torch._dynamo.reset()
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    model = torch.compile(net, backend=backend)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 4)).square().mean().backward()
        optimizer.step()


def diverges() -> None:
    train(wrong)


SNAPSHOTS = {"compile-eager-divergence": diverges}


def test_a_backend_that_is_wrong() -> None:
    (found,) = [each for each in find(diverges, probe=True) if each.rule == "compile-eager-divergence"]
    assert (found.severity, found.confidence) == (Severity.ERROR, Confidence.PROBE)
    assert abs(found.evidence["relative"] - 0.3) < 1e-3


def test_a_backend_that_is_right() -> None:
    assert "compile-eager-divergence" not in rules(lambda: train(right), probe=True)
