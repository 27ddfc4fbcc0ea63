"""loss-args-swapped: a target given as the prediction is found; what is meant is left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loopkit import Confidence, Finding, Severity
from loopkit_plugins.checks.loss.loss_args_swapped import LossArgsSwapped
from tests.losses import loop_of
from tests.watched import find, line_of

RULE = "loss-args-swapped"
F = nn.functional
LABELS = torch.arange(8) % 3
ONE_HOT = F.one_hot(LABELS, 3).float()
SOFT = torch.randn(8, 3).softmax(1)
pytestmark = pytest.mark.filterwarnings("ignore:reduction")


def found(loop: Callable[[], Any]) -> list[Finding]:
    """What this rule says of a loop."""
    return [each for each in find(loop, autoload=False, plugins=[LossArgsSwapped]) if each.rule == RULE]


def target_first() -> None:
    net = nn.Linear(4, 3)
    criterion = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        loss = criterion(ONE_HOT, net(torch.randn(8, 4)).sigmoid())
        loss.backward()
        optimizer.step()


SNAPSHOTS = {RULE: target_first}


def of(loss: Callable[[Tensor], Tensor]) -> list[Finding]:
    """What is said of this loss of a linear layer's scores."""
    # One step: some of these end in nan.
    return found(loop_of(lambda net, x: loss(net(x)), lambda: nn.Linear(4, 3), steps=1))


def test_found_where_the_loss_is_made() -> None:
    (finding,) = found(target_first)
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(target_first, "criterion(ONE_HOT")
    assert finding.places["backward"].line == line_of(target_first, "backward()")
    assert finding.evidence["function"] == "binary_cross_entropy_with_logits"


@pytest.mark.parametrize(
    "loss",
    [
        lambda out: F.binary_cross_entropy(ONE_HOT, out.sigmoid()),
        lambda out: F.binary_cross_entropy_with_logits(ONE_HOT, out, reduction="sum"),
        lambda out: F.kl_div(SOFT, out.log_softmax(1), reduction="batchmean"),
        lambda out: F.kl_div(SOFT, out.softmax(1), reduction="batchmean"),
        lambda out: F.cross_entropy(ONE_HOT, out),
        lambda out: F.cross_entropy(SOFT, out),
        lambda out: F.cross_entropy(out, LABELS) + F.kl_div(SOFT, out.softmax(1), reduction="sum") / 8,
    ],
)
def test_found_in_all_forms(loss: Callable[[Tensor], Tensor]) -> None:
    assert len(of(loss)) == 1


@pytest.mark.parametrize(
    "loss",
    [
        lambda out: F.binary_cross_entropy(out.sigmoid(), ONE_HOT),
        lambda out: F.binary_cross_entropy_with_logits(out, ONE_HOT),
        lambda out: F.kl_div(out.log_softmax(1), SOFT, reduction="batchmean"),
        lambda out: F.kl_div(SOFT.log(), out.softmax(1), reduction="batchmean"),
        lambda out: F.kl_div(SOFT.log(), out.log_softmax(1), reduction="batchmean", log_target=True),
        lambda out: F.kl_div(out.log_softmax(1), out.detach().softmax(1), reduction="batchmean"),
        lambda out: F.kl_div(out.log_softmax(1), (2 * out).softmax(1), reduction="batchmean"),
        lambda out: F.cross_entropy(out, ONE_HOT),
        lambda out: F.cross_entropy(SOFT.log(), out.softmax(1)),
        lambda out: F.binary_cross_entropy(SOFT, out.sigmoid()),
        lambda out: F.mse_loss(ONE_HOT, out),
        lambda out: F.l1_loss(ONE_HOT, out) + F.smooth_l1_loss(ONE_HOT, out),
    ],
)
def test_silent(loss: Callable[[Tensor], Tensor]) -> None:
    assert of(loss) == []


def test_silent_about_a_number_that_is_in_no_loss() -> None:
    def loss(net: nn.Module, x: Tensor) -> Tensor:
        out = net(x)
        F.kl_div(SOFT, out.softmax(1), reduction="batchmean").item()
        return F.cross_entropy(out, LABELS)

    assert found(loop_of(loss, lambda: nn.Linear(4, 3))) == []
