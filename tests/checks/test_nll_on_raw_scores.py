"""nll-on-raw-scores: scores and probabilities given to NLLLoss are found at the call; log-probabilities are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loopkit import Confidence, Finding, Severity
from loopkit_plugins.checks.loss.nll_on_raw_scores import NllOnRawScores
from tests.loops import adamw
from tests.watched import find, line_of

RULE = "nll-on-raw-scores"
CLASSES = 3
Loss = Callable[[Tensor, Tensor], Tensor]


def found(loop: Callable[[], Any]) -> list[Finding]:
    return [each for each in find(loop, autoload=False, plugins=[NllOnRawScores]) if each.rule == RULE]


def raw_scores() -> None:
    torch.manual_seed(0)
    net, criterion = nn.Linear(4, CLASSES), nn.NLLLoss()
    optimizer = adamw(net)
    for _ in range(4):
        x, y = torch.randn(8, 4), torch.randint(0, CLASSES, (8,))
        optimizer.zero_grad()
        loss = criterion(net(x), y)
        loss.backward()
        optimizer.step()


SNAPSHOTS = {"nll-on-raw-scores": raw_scores}


def loop_of(loss: Loss, model: Callable[[], nn.Module] = lambda: nn.Linear(4, CLASSES)) -> Callable[[], None]:
    def loop() -> None:
        torch.manual_seed(0)
        net = model()
        optimizer = adamw(net)
        for _ in range(4):
            x, y = torch.randn(8, 4), torch.randint(0, CLASSES, (8,))
            optimizer.zero_grad()
            loss(net(x), y).backward()
            optimizer.step()

    return loop


def test_found_at_the_call_of_the_loss() -> None:
    (finding,) = found(raw_scores)
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(raw_scores, "criterion(net(x), y)")
    assert finding.seen.startswith("nll_loss got raw scores (Addmm)")
    assert "cross_entropy" in finding.remedy
    assert finding.step == 1


@pytest.mark.parametrize(
    "model",
    [
        lambda: nn.Sequential(nn.Linear(4, CLASSES, bias=False)),
        lambda: nn.Sequential(nn.Linear(4, CLASSES), nn.ReLU()),
        lambda: nn.Sequential(nn.Linear(4, CLASSES), nn.Tanh()),
        lambda: nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Conv1d(1, CLASSES, 4), nn.Flatten()),
        lambda: nn.Sequential(nn.Linear(4, CLASSES), nn.BatchNorm1d(CLASSES)),
    ],
)
def test_found_behind_every_layer_that_makes_scores(model: Callable[[], nn.Module]) -> None:
    (finding,) = found(loop_of(F.nll_loss, model))
    assert finding.severity is Severity.ERROR


@pytest.mark.parametrize(
    "loss",
    [
        lambda z, y: F.nll_loss(z, y, reduction="sum") / 8,
        lambda z, y: F.nll_loss(z, y, reduction="none").mean(),
        lambda z, y: F.nll_loss(z.unsqueeze(2).expand(-1, -1, 5), y.unsqueeze(1).expand(-1, 5)),
        lambda z, y: F.nll_loss(z, y, weight=torch.ones(CLASSES)) + 0.1 * F.nll_loss(z.detach().log_softmax(1), y),
    ],
)
def test_found_in_every_form(loss: Loss) -> None:
    assert len(found(loop_of(loss))) == 1


def test_probabilities_are_a_warning() -> None:
    (finding,) = found(loop_of(lambda z, y: F.nll_loss(z.softmax(1), y)))
    assert finding.severity is Severity.WARNING
    assert "whose rows sum to 1" in finding.seen


class Density(nn.Module):
    """A generative classifier: the logarithm of a density for each class, which may be above 0."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.randn(CLASSES, 4))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = torch.distributions.Normal(self.mean, 0.05).log_prob(x[:, None]).sum(-1)
        return made


@pytest.mark.parametrize(
    "loss",
    [
        lambda z, y: F.nll_loss(z.log_softmax(1), y),
        lambda z, y: F.nll_loss((z.softmax(1) + 1e-9).log(), y),
        lambda z, y: F.nll_loss(z - z.logsumexp(1, keepdim=True), y),
        lambda z, y: F.nll_loss(z, y) + z.logsumexp(1).mean(),
        lambda z, y: F.nll_loss(z, y) + z.max(1).values.mean(),
        lambda z, y: F.cross_entropy(z, y),
        lambda z, y: z.square().mean() + 0 * F.nll_loss(z.detach(), y),
    ],
)
def test_look_alikes_are_left_alone(loss: Loss) -> None:
    assert found(loop_of(loss)) == []


def test_log_densities_are_left_alone() -> None:
    assert found(loop_of(F.nll_loss, Density)) == []


def test_a_loss_that_is_not_sent_backward_is_left_alone() -> None:
    def loss(z: Tensor, y: Tensor) -> Tensor:
        F.nll_loss(z, y)  # a metric, computed with gradients on
        return F.cross_entropy(z, y)

    assert found(loop_of(loss)) == []
