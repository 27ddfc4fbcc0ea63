"""loss-wrong-sign: a loss that is made large and grows is found; games, likelihoods and forgetting are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loopkit import Confidence, Finding, Severity
from loopkit_plugins.checks.loss.loss_wrong_sign import LossWrongSign
from tests.watched import find, line_of

RULE = "loss-wrong-sign"
Loss = Callable[[Tensor, Tensor], Tensor]
Made = Callable[[nn.Module], torch.optim.Optimizer]


def found(loop: Callable[[], Any]) -> list[Finding]:
    return [each for each in find(loop, autoload=False, plugins=[LossWrongSign]) if each.rule == RULE]


def sgd(net: nn.Module, rate: float = 0.5, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=rate, **options)


def maximised() -> None:
    torch.manual_seed(0)
    net = nn.Linear(4, 3)
    optimizer = sgd(net)
    for _ in range(16):
        x = torch.randn(32, 4)
        optimizer.zero_grad()
        loss = -F.cross_entropy(net(x), x.argmax(1).clamp(max=2))
        loss.backward()
        optimizer.step()


SNAPSHOTS = {"loss-wrong-sign": maximised}


def loop_of(loss: Loss, optimizer_of: Made = sgd) -> Callable[[], None]:
    def loop() -> None:
        torch.manual_seed(0)
        net = nn.Linear(4, 3)
        optimizer = optimizer_of(net)
        for _ in range(16):
            x = torch.randn(32, 4)
            optimizer.zero_grad()
            loss(net(x), x).backward()
            optimizer.step()

    return loop


def target(x: Tensor) -> Tensor:
    return x.argmax(1).clamp(max=2)


def test_found_at_the_backward_with_both_values() -> None:
    (finding,) = found(maximised)
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.FACT)
    assert finding.place is not None
    assert finding.place.line == line_of(maximised, "backward()")
    assert finding.seen.startswith("cross_entropy is sent backward with a minus, and has grown from 1.")
    assert finding.evidence["last"] > 1.5 * finding.evidence["first"]


@pytest.mark.parametrize(
    "loop",
    [
        loop_of(lambda z, x: -F.mse_loss(z, x[:, :3]), lambda net: sgd(net, 0.2)),
        loop_of(lambda z, x: F.cross_entropy(z, target(x)) * -2),
        loop_of(lambda z, x: F.cross_entropy(z, target(x)), lambda net: sgd(net, maximize=True)),
        loop_of(
            lambda z, x: -F.binary_cross_entropy_with_logits(z, (x[:, :3] > 0).float()), lambda net: sgd(net, 4.0)
        ),
    ],
)
def test_found_in_every_form(loop: Callable[[], None]) -> None:
    assert len(found(loop)) == 1


def _game() -> None:
    torch.manual_seed(0)
    one, two = nn.Linear(4, 3), nn.Linear(3, 2)
    first, second = sgd(one), sgd(two)
    for _ in range(16):
        x = torch.randn(32, 4)
        y = (x[:, 0] > 0).long()
        second.zero_grad()
        F.cross_entropy(two(one(x).detach()), y).backward()
        second.step()
        first.zero_grad()
        (-F.cross_entropy(two(one(x)), y)).backward()
        first.step()


def _forgets(net: nn.Module) -> torch.optim.Optimizer:
    with torch.no_grad():
        assert isinstance(net.weight, Tensor)
        net.weight.copy_(torch.eye(4)[:3] * 12)
    return sgd(net, 4.0)


def _attack() -> None:
    torch.manual_seed(0)
    net = nn.Linear(4, 3).requires_grad_(False)
    noise = torch.zeros(32, 4, requires_grad=True)
    x = torch.randn(32, 4)
    optimizer = torch.optim.SGD([noise], lr=50.0)
    for _ in range(16):
        optimizer.zero_grad()
        (-F.cross_entropy(net(x + noise), target(x))).backward()
        optimizer.step()


@pytest.mark.parametrize(
    "loop",
    [
        _game,
        _attack,
        loop_of(lambda z, x: F.cross_entropy(z, target(x))),
        loop_of(lambda z, x: -F.cross_entropy(z, target(x)), lambda net: sgd(net, maximize=True)),
        loop_of(lambda z, x: -F.cross_entropy(z, target(x)), lambda net: sgd(net, 0.0)),
        loop_of(lambda z, x: -F.cross_entropy(z, x[:, :3].argmax(1)), _forgets),
        loop_of(lambda z, x: -F.cross_entropy(z, target(x)) + z.square().mean()),
        loop_of(lambda z, x: -(z.log_softmax(1) * x[:, :3]).sum(1).mean()),
        loop_of(lambda z, x: -F.cosine_similarity(z, x[:, :3]).mean()),
        loop_of(lambda z, x: F.mse_loss(z, x[:, :3]), lambda net: sgd(net, 20.0)),  # diverges, and is made small
    ],
)
def test_look_alikes_are_left_alone(loop: Callable[[], None]) -> None:
    assert found(loop) == []
