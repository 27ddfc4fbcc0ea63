"""units-dead-or-saturated: units that are idle for every sample, and none that are only sparse."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from loopkit import Confidence, Severity
from tests.watched import find, line_of, rules

RULE = "units-dead-or-saturated"


def train(net: nn.Module, updates: int = 40, size: int = 32) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.001)
    for _ in range(updates):
        x = torch.randn(size, 4)
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(net(x), x[:, :2])
        loss.backward()
        optimizer.step()


def network(activation: nn.Module, idle: int = 0, size: float = -100.0) -> nn.Sequential:
    """A net with so many units of the first layer pushed out of reach."""
    first = nn.Linear(4, 16)
    with torch.no_grad():
        first.bias[:idle] = size
    return nn.Sequential(first, activation, nn.Linear(16, 2))


def dead() -> None:
    train(network(nn.ReLU(), 12))


SNAPSHOTS = {RULE: dead}


def test_dead_units_are_told_with_their_layer() -> None:
    (found,) = find(dead)
    assert (found.rule, found.severity, found.confidence) == (RULE, Severity.INFO, Confidence.HEURISTIC)
    assert found.place is not None
    assert found.place.line == line_of(train, "loss.backward()")
    assert (found.evidence["idle"], found.evidence["units"]) == (12, 16)
    assert "the ReLU behind Sequential.0" in found.seen


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.Sigmoid()])
@pytest.mark.parametrize("size", [-50.0, 50.0])
def test_saturated_units_are_told(activation: nn.Module, size: float) -> None:
    (found,) = find(lambda: train(network(activation, 9, size)))
    assert (found.rule, found.evidence["idle"]) == (RULE, 9)


def test_channels_are_units_where_a_convolution_comes_before() -> None:
    class Images(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act, self.last = nn.Conv2d(1, 8, 2), nn.ReLU(), nn.Linear(8, 2)
            with torch.no_grad():
                self.conv.bias[:5] = -100.0  # type: ignore[index]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.last(self.act(self.conv(x.view(-1, 1, 2, 2))).flatten(1))
            return out

    (found,) = find(lambda: train(Images()))
    assert (found.evidence["idle"], found.evidence["units"]) == (5, 8)


# -- what looks like it ----------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh(), nn.Sigmoid(), nn.GELU()])
def test_silent_on_units_that_work(activation: nn.Module) -> None:
    assert rules(lambda: train(network(activation))) == []


def test_silent_on_a_few_on_a_short_run_and_on_few_samples() -> None:
    assert rules(lambda: train(network(nn.ReLU(), 7))) == []
    assert rules(lambda: train(network(nn.ReLU(), 12), updates=20)) == []
    assert rules(lambda: train(network(nn.ReLU(), 12), size=4)) == []
