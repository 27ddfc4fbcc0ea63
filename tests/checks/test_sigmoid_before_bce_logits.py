"""sigmoid-before-bce-logits: probabilities in a binary cross-entropy of scores are found; nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loopkit import Confidence, Finding, Severity
from loopkit_plugins.checks.loss.sigmoid_before_bce_logits import SigmoidBeforeBceLogits
from tests.losses import loop_of
from tests.watched import find, line_of

RULE = "sigmoid-before-bce-logits"
F = nn.functional
TARGETS = (torch.arange(8) % 2).float()


def found(loop: Callable[[], Any]) -> list[Finding]:
    """What this rule says of a loop."""
    return [each for each in find(loop, autoload=False, plugins=[SigmoidBeforeBceLogits]) if each.rule == RULE]


def sigmoid_in_the_model() -> None:
    net = nn.Sequential(nn.Linear(4, 1), nn.Sigmoid())
    criterion = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        loss = criterion(net(torch.randn(8, 4)).squeeze(1), TARGETS)
        loss.backward()
        optimizer.step()


def sigmoid_twice() -> None:
    net = nn.Sequential(nn.Linear(4, 1), nn.Sigmoid())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        loss = F.binary_cross_entropy(torch.sigmoid(net(torch.randn(8, 4))).squeeze(1), TARGETS)
        loss.backward()
        optimizer.step()


SNAPSHOTS = {RULE: sigmoid_in_the_model, f"{RULE}-twice": sigmoid_twice}


def of(loss: Callable[[Tensor], Tensor]) -> list[Finding]:
    """What is said of this loss of a linear layer's scores, one a sample."""
    return found(loop_of(lambda net, x: loss(net(x).squeeze(1))))


@pytest.mark.parametrize("loop", [sigmoid_in_the_model, sigmoid_twice])
def test_found_where_the_loss_is_made(loop: Callable[[], None]) -> None:
    (finding,) = found(loop)
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(loop, "loss =")


def test_the_losses_it_names_are_those_of_perfect_predictions() -> None:
    (finding,) = found(sigmoid_in_the_model)
    for target in (0.0, 1.0):
        best = F.binary_cross_entropy_with_logits(torch.tensor([target]), torch.tensor([target]))
        assert f"{best.item():.2f}" in finding.why


@pytest.mark.parametrize(
    "loss",
    [
        lambda out: F.binary_cross_entropy_with_logits(out.sigmoid(), TARGETS, pos_weight=torch.tensor(2.0)),
        lambda out: F.binary_cross_entropy_with_logits(out.sigmoid().double(), TARGETS.double(), reduction="sum"),
        lambda out: F.binary_cross_entropy_with_logits(out.view(4, 2).softmax(1).flatten(), TARGETS),
        lambda out: F.binary_cross_entropy_with_logits(F.hardsigmoid(out), TARGETS),
        lambda out: F.binary_cross_entropy_with_logits(out.sigmoid(), TARGETS, reduction="none").mean() / 4,
    ],
)
def test_found_in_all_forms(loss: Callable[[Tensor], Tensor]) -> None:
    assert len(of(loss)) == 1


@pytest.mark.parametrize(
    "loss",
    [
        lambda out: F.binary_cross_entropy_with_logits(out, TARGETS),
        lambda out: F.binary_cross_entropy(out.sigmoid(), TARGETS),
        lambda out: F.binary_cross_entropy_with_logits(torch.logit(out.sigmoid()), TARGETS),
        lambda out: F.binary_cross_entropy_with_logits(out * out.sigmoid(), TARGETS),
        lambda out: F.binary_cross_entropy_with_logits(10 * out.sigmoid() - 5, TARGETS),
        lambda out: F.binary_cross_entropy(out.sigmoid() * out.sigmoid(), TARGETS),
        lambda out: F.mse_loss(out.sigmoid().sigmoid(), TARGETS),
    ],
)
def test_silent(loss: Callable[[Tensor], Tensor]) -> None:
    assert of(loss) == []
