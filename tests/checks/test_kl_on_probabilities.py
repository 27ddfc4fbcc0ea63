"""kl-on-probabilities: what kl_div takes for a logarithm and is none is found; log-probabilities are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loopkit import Confidence, Finding, Severity
from loopkit_plugins.checks.loss.kl_on_probabilities import KlOnProbabilities
from tests.loops import adamw
from tests.watched import find, line_of

RULE = "kl-on-probabilities"
CLASSES = 3
Loss = Callable[[Tensor, Tensor], Tensor]


def found(loop: Callable[[], Any]) -> list[Finding]:
    return [each for each in find(loop, autoload=False, plugins=[KlOnProbabilities]) if each.rule == RULE]


def probabilities() -> None:
    torch.manual_seed(0)
    net, teacher = nn.Linear(4, CLASSES), nn.Linear(4, CLASSES)
    optimizer = adamw(net)
    for _ in range(4):
        x = torch.randn(8, 4)
        with torch.no_grad():
            target = F.softmax(teacher(x), dim=-1)
        optimizer.zero_grad()
        guess = F.softmax(net(x), dim=-1)
        loss = F.kl_div(guess, target, reduction="batchmean")
        loss.backward()
        optimizer.step()


SNAPSHOTS = {"kl-on-probabilities": probabilities}


def loop_of(loss: Loss) -> Callable[[], None]:
    """A loop of distillation; `loss` gets the scores of both."""

    def loop() -> None:
        torch.manual_seed(0)
        net, teacher = nn.Linear(4, CLASSES), nn.Linear(4, CLASSES)
        optimizer = adamw(net)
        for _ in range(4):
            x = torch.randn(8, 4)
            optimizer.zero_grad()
            loss(net(x), teacher(x).detach()).backward()
            optimizer.step()

    return loop


def test_found_at_the_call_of_the_loss() -> None:
    (finding,) = found(probabilities)
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(probabilities, "F.kl_div(")
    assert "rows sum to 1" in finding.seen
    assert "log_softmax" in finding.remedy


@pytest.mark.parametrize(
    ("loss", "where"),
    [
        (lambda z, t: nn.KLDivLoss(reduction="batchmean")(z.softmax(1), t.softmax(1)), "input"),
        (lambda z, t: F.kl_div(z, t.softmax(1), reduction="sum"), "input"),
        (lambda z, t: F.kl_div(z.softmax(1), t.log_softmax(1), reduction="sum", log_target=True), "input"),
        (lambda z, t: F.kl_div(z.log_softmax(1), t.softmax(1), reduction="sum", log_target=True), "target"),
        (lambda z, t: F.kl_div(z.softmax(1)[:, :, None], t.softmax(1)[:, :, None], reduction="sum"), "input"),
    ],
)
def test_found_in_every_form(loss: Loss, where: str) -> None:
    (finding,) = found(loop_of(loss))
    assert finding.evidence["where"] == where


@pytest.mark.parametrize(
    "loss",
    [
        lambda z, t: F.kl_div(z.log_softmax(1), t.softmax(1), reduction="batchmean"),
        lambda z, t: F.kl_div(z.log_softmax(1), t.log_softmax(1), reduction="batchmean", log_target=True),
        lambda z, t: F.kl_div((z.softmax(1) + 1e-8).log(), t.softmax(1), reduction="batchmean"),
        lambda z, t: F.kl_div(z, t.exp(), reduction="batchmean") + z.exp().sum(1).mean(),  # of measures
        lambda z, t: F.kl_div(z, t.softmax(1), reduction="batchmean") + z.logsumexp(1).mean(),
        lambda z, t: F.kl_div(F.logsigmoid(z), t.sigmoid(), reduction="batchmean"),
        lambda z, t: F.cross_entropy(z, t.softmax(1)),
    ],
)
def test_look_alikes_are_left_alone(loss: Loss) -> None:
    assert found(loop_of(loss)) == []
