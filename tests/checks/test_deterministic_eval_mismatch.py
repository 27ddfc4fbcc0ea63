"""deterministic-eval-mismatch: a model in eval mode must say the same thing twice."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loopkit import Confidence, Severity
from tests.watched import find, rules


class Net(nn.Module):
    """One layer, and dropout of one kind or another."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self.drop = nn.Dropout(0.5)
        self.kind = kind
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "always":
            x = F.dropout(x, 0.5)
        elif self.kind == "training":
            x = F.dropout(x, 0.5, training=self.training)
        elif self.kind == "module":
            x = self.drop(x)
        elif self.kind == "counts":
            self.calls += 1
            x = x * self.calls
        out: Tensor = self.layer(x)
        return out


def train(kind: str) -> None:
    net = Net(kind)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        net(torch.ones(4, 4)).square().mean().backward()
        optimizer.step()


def always() -> None:
    train("always")


SNAPSHOTS = {"deterministic-eval-mismatch": always}


def test_dropout_that_is_always_on_and_layers_that_remember() -> None:
    for kind in ("always", "counts"):
        (found,) = [f for f in find(partial(train, kind), probe=True) if "deterministic" in f.rule]
        assert (found.severity, found.confidence) == (Severity.INFO, Confidence.PROBE)


def test_dropout_that_knows_its_mode_is_right() -> None:
    for kind in ("training", "module", "none"):
        assert not any("deterministic" in rule for rule in rules(partial(train, kind), probe=True))
