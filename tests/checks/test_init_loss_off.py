"""init-loss-off: a first loss far from a guess is said; one that is near, and one without a reference, is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loopkit import Confidence, Finding, Severity
from loopkit_plugins.checks.curves.init_loss_off import InitLossOff
from tests.loops import adamw
from tests.watched import find, line_of

RULE = "init-loss-off"
Loss = Callable[[Tensor, Tensor], Tensor]


def found(loop: Callable[[], Any]) -> list[Finding]:
    return [each for each in find(loop, autoload=False, plugins=[InitLossOff]) if each.rule == RULE]


def too_large() -> None:
    torch.manual_seed(0)
    net = nn.Linear(4, 3)
    nn.init.normal_(net.weight, std=10.0)
    optimizer = adamw(net)
    for _ in range(4):
        x, y = torch.randn(8, 4), torch.arange(8) % 3
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()


SNAPSHOTS = {"init-loss-off": too_large}


def loop_of(loss: Loss, scale: float = 20.0) -> Callable[[], None]:
    def loop() -> None:
        torch.manual_seed(0)
        net = nn.Linear(4, 3)
        optimizer = adamw(net)
        for _ in range(4):
            optimizer.zero_grad()
            loss(net(torch.randn(8, 4)) * scale, torch.arange(8) % 3).backward()
            optimizer.step()

    return loop


def test_found_at_the_call_of_the_loss() -> None:
    (finding,) = found(too_large)
    assert (finding.severity, finding.confidence) == (Severity.INFO, Confidence.HEURISTIC)
    assert finding.place is not None
    assert finding.place.line == line_of(too_large, "F.cross_entropy(")
    assert "where a guess has 1.1" in finding.seen
    assert finding.step == 1


def test_too_low_is_said_too() -> None:
    (finding,) = found(loop_of(lambda z, y: F.cross_entropy(z + 40 * F.one_hot(y, 3), y), 1.0))
    assert "knows the labels" in finding.why


def test_binary() -> None:
    def loss(z: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(z[:, 0], (y > 0).float())

    assert len(found(loop_of(loss, 100.0))) == 1


@pytest.mark.parametrize(
    "loop",
    [
        loop_of(F.cross_entropy, 1.0),
        loop_of(lambda z, y: F.cross_entropy(z, y, reduction="sum")),
        loop_of(lambda z, y: F.cross_entropy(z, y, weight=torch.ones(3))),
        loop_of(lambda z, y: F.cross_entropy(z, y, label_smoothing=0.1)),
        loop_of(lambda z, y: F.mse_loss(z[:, 0], y.float())),
    ],
)
def test_look_alikes_are_left_alone(loop: Callable[[], None]) -> None:
    assert found(loop) == []
