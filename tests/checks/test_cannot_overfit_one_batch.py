"""cannot-overfit-one-batch: a model must be able to learn one batch by heart."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loopkit import Confidence, Severity, watch
from tests.watched import find, rules


class Net(nn.Module):
    """A perceptron that may lose its input, or its gradient."""

    def __init__(self, spoil: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 32), nn.ReLU())
        self.head = nn.Linear(32, 3, bias=False)
        self.spoil = spoil

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.spoil(self.body(x)))
        return out


def train(spoil: Callable[[Tensor], Tensor], *, divided: bool = False, by_hand: bool = False) -> None:
    net = Net(spoil)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    criterion = nn.CrossEntropyLoss()
    for _ in range(2):
        logits = net(torch.randn(16, 4))
        target = torch.arange(16) % 3
        loss = -logits.log_softmax(1)[range(16), target].mean() if by_hand else criterion(logits, target)
        (loss / 2 if divided else loss).backward()
        optimizer.step()
        optimizer.zero_grad()


def spoilt() -> None:
    train(torch.zeros_like)


SNAPSHOTS = {"cannot-overfit-one-batch": spoilt}


@pytest.mark.parametrize("divided", [False, True])
def test_a_model_that_never_sees_its_input(divided: bool) -> None:
    findings = find(lambda: train(torch.zeros_like, divided=divided), probe=True)
    (found,) = [each for each in findings if each.rule == "cannot-overfit-one-batch"]
    assert (found.severity, found.confidence) == (Severity.WARNING, Confidence.PROBE)
    assert found.evidence["best"] > 0.9 * found.evidence["first"]


@pytest.mark.parametrize("divided", [False, True])
def test_a_model_that_learns(divided: bool) -> None:
    assert "cannot-overfit-one-batch" not in rules(lambda: train(nn.Identity(), divided=divided), probe=True)


def test_logits_that_are_reshaped_for_the_loss() -> None:
    def loop() -> None:
        net = Net(torch.zeros_like)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        logits = net(torch.randn(4, 4, 4))
        F.cross_entropy(logits.flatten(0, 1), torch.arange(16) % 3).backward()
        optimizer.step()

    assert "cannot-overfit-one-batch" in rules(loop, probe=True)


def test_a_loss_by_hand_is_not_checked() -> None:
    with watch(skip=["console"], probe=True) as run:
        train(torch.zeros_like, by_hand=True)
    assert "cannot-overfit-one-batch" in [rule for rule, _ in run.not_checked()]
    assert F.cross_entropy is nn.functional.cross_entropy
