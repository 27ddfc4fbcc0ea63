"""target-out-of-range: targets that the loss or the last activation has no place for are found; soft ones are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loopkit import Confidence, Finding, Severity
from loopkit_plugins.checks.loss.target_out_of_range import TargetOutOfRange
from tests.loops import adamw
from tests.watched import find, line_of

RULE = "target-out-of-range"
Loss = Callable[[Tensor], Tensor]
SIXTEEN = torch.arange(16.0)


def found(loop: Callable[[], Any]) -> list[Finding]:
    return [each for each in find(loop, autoload=False, plugins=[TargetOutOfRange]) if each.rule == RULE]


def class_numbers_into_bce() -> None:
    torch.manual_seed(0)
    net = nn.Linear(4, 1)
    optimizer = adamw(net)
    y = (torch.arange(16) % 4).float().unsqueeze(1)
    for _ in range(4):
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(net(torch.randn(16, 4)), y)
        loss.backward()
        optimizer.step()


SNAPSHOTS = {"target-out-of-range": class_numbers_into_bce}


def loop_of(loss: Loss) -> Callable[[], None]:
    """A loop over 16 outputs; `loss` gets them."""

    def loop() -> None:
        torch.manual_seed(0)
        net = nn.Linear(4, 1)
        optimizer = adamw(net)
        for _ in range(4):
            optimizer.zero_grad()
            loss(net(torch.randn(16, 4)).squeeze(1)).backward()
            optimizer.step()

    return loop


def test_found_at_the_call_of_the_loss() -> None:
    (finding,) = found(class_numbers_into_bce)
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(class_numbers_into_bce, "with_logits(")
    assert finding.seen.startswith(
        "8 of 16 targets of binary_cross_entropy_with_logits lie outside 0 … 1: from 0 to 3"
    )


@pytest.mark.parametrize(
    ("loss", "seen"),
    [
        (lambda z: F.binary_cross_entropy_with_logits(z, SIXTEEN % 2 * 2 - 1), "from -1 to 1"),
        (lambda z: F.binary_cross_entropy_with_logits(z, SIXTEEN / 4 + 0.1), "from 0.1 to 3.85"),
        (lambda z: F.binary_cross_entropy_with_logits(z, SIXTEEN, reduction="none").view(4, 4).mean(), "to 15"),
        (lambda z: F.mse_loss(z.sigmoid(), SIXTEEN - 8), "14 of 16 targets of mse_loss lie outside 0 … 1"),
        (lambda z: F.smooth_l1_loss(z.tanh(), SIXTEEN / 10), "the range of the tanh"),
        (lambda z: F.cross_entropy(z.view(4, 4), torch.linspace(-1, 2, 16).view(4, 4)), "are negative, down to -1"),
    ],
)
def test_found_in_every_form(loss: Loss, seen: str) -> None:
    (finding,) = found(loop_of(loss))
    assert seen in finding.seen
    assert finding.severity is Severity.ERROR


@pytest.mark.parametrize(
    "loss",
    [
        lambda z: F.binary_cross_entropy_with_logits(z, SIXTEEN % 2),
        lambda z: F.binary_cross_entropy_with_logits(z, SIXTEEN % 2 * 0.8 + 0.1),
        lambda z: F.binary_cross_entropy_with_logits(z, SIXTEEN / 32 + 0.7),  # soft labels of a game, up to 1.17
        lambda z: F.binary_cross_entropy_with_logits(z, SIXTEEN, reduction="none")[:2].mean(),  # masked afterwards
        lambda z: F.binary_cross_entropy_with_logits(z, SIXTEEN, weight=(SIXTEEN < 2).float()),
        lambda z: F.soft_margin_loss(z, SIXTEEN % 2 * 2 - 1),
        lambda z: F.mse_loss(z, SIXTEEN),
        lambda z: F.mse_loss(z.sigmoid() * 16, SIXTEEN),
        lambda z: F.mse_loss(z.tanh(), SIXTEEN % 2 * 2 - 1),
        lambda z: F.mse_loss(z.sigmoid(), SIXTEEN / 15 * 1.02),
        lambda z: F.mse_loss(z.tanh().repeat(4), torch.cat([SIXTEEN[:2].repeat(31), SIXTEEN[8:10]])),  # two outliers
        lambda z: F.cross_entropy(z.view(4, 4), torch.full((4, 4), 0.25)),
        lambda z: F.cross_entropy(z.view(4, 4), torch.arange(4)),
        lambda z: F.mse_loss(z.relu(), SIXTEEN),
    ],
)
def test_look_alikes_are_left_alone(loss: Loss) -> None:
    assert found(loop_of(loss)) == []
