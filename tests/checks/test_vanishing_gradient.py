"""vanishing-gradient: a front that does not move, and none that is merely slow."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from loopkit import Confidence, Severity
from tests.loops import batches
from tests.watched import find, line_of, rules

RULE = "vanishing-gradient"


def deep(activation: type[nn.Module], layers: int = 14) -> nn.Sequential:
    body = [nn.Sequential(nn.Linear(4, 4), activation()) for _ in range(layers)]
    return nn.Sequential(*body, nn.Linear(4, 2))


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 70) -> None:
    for x, y in batches(steps):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(net(x), y)
        loss.backward()
        optimizer.step()


def sigmoids() -> None:
    net = deep(nn.Sigmoid)
    train(net, torch.optim.SGD(net.parameters(), lr=0.1))


SNAPSHOTS = {RULE: sigmoids}


def test_found_where_the_front_does_not_move() -> None:
    (found,) = [each for each in find(sigmoids) if each.rule == RULE]
    assert (found.rule, found.severity, found.confidence) == (RULE, Severity.WARNING, Confidence.HEURISTIC)
    assert found.place is not None
    assert found.place.line == line_of(train, "optimizer.step()")
    assert found.evidence["first"] == "Sequential.0.0.weight"
    assert found.evidence["step"] == 64


# -- what looks like it ----------------------------------------------------------------------------------


def test_silent_on_another_activation_on_adam_and_on_a_short_run() -> None:
    def tanh() -> None:
        net = deep(nn.Tanh)
        train(net, torch.optim.SGD(net.parameters(), lr=0.1))

    def adam() -> None:
        net = deep(nn.Sigmoid)
        train(net, torch.optim.Adam(net.parameters(), lr=0.01))

    def short() -> None:
        net = deep(nn.Sigmoid)
        train(net, torch.optim.SGD(net.parameters(), lr=0.1), 40)

    for loop in (tanh, adam, short):
        assert RULE not in rules(loop)


def test_silent_on_gradients_of_zero_and_on_a_frozen_front() -> None:
    def zero_branch() -> None:
        net = deep(nn.Tanh)
        with torch.no_grad():
            last = net[14]
            assert isinstance(last, nn.Linear)
            last.weight.zero_()
            last.weight.requires_grad_(False)
        train(net, torch.optim.SGD(net.parameters(), lr=0.1))

    def frozen() -> None:
        net = deep(nn.Sigmoid)
        net[:12].requires_grad_(False)
        train(net, torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1))

    def rates() -> None:
        net = deep(nn.Tanh)
        groups: list[dict[str, Any]] = [
            {"params": net[:8].parameters(), "lr": 1e-9},
            {"params": net[8:].parameters(), "lr": 0.1},
        ]
        train(net, torch.optim.SGD(groups))

    for loop in (zero_branch, frozen, rates):
        assert RULE not in rules(loop)
