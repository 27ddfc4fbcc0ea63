"""output-collapse: outputs that are the same for every input are found, outputs that differ at all are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loopkit import Confidence, Finding, Severity
from loopkit_plugins.checks.curves.output_collapse import OutputCollapse
from tests.loops import adamw
from tests.watched import find, line_of

RULE = "output-collapse"


def found(loop: Callable[[], Any]) -> list[Finding]:
    return [each for each in find(loop, autoload=False, plugins=[OutputCollapse]) if each.rule == RULE]


def dead() -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    nn.init.constant_(net[0].bias, -100.0)  # type: ignore[arg-type]
    return net


def dead_units() -> None:
    torch.manual_seed(0)
    net = dead()
    optimizer = adamw(net)
    for _ in range(33):
        x, y = torch.randn(8, 4), torch.arange(8) % 3
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()


SNAPSHOTS = {"output-collapse": dead_units}


def loop_of(
    model: Callable[[], nn.Module],
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    y: Tensor | None = None,
    steps: int = 33,
    samples: int = 8,
) -> Callable[[], None]:
    def loop() -> None:
        torch.manual_seed(0)
        net = model()
        optimizer = adamw(net)
        targets = torch.arange(samples) % 3 if y is None else y
        for _ in range(steps):
            optimizer.zero_grad()
            loss(net(torch.randn(samples, 4)), targets).backward()
            optimizer.step()

    return loop


def test_found_at_the_call_of_the_loss() -> None:
    (finding,) = found(dead_units)
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.FACT)
    assert finding.place is not None
    assert finding.place.line == line_of(dead_units, "F.cross_entropy(")
    assert finding.seen.startswith(
        "since update 8 the 24 predictions given to cross_entropy in the 3 batches looked at were the same"
    )


@pytest.mark.parametrize(
    "loss",
    [
        lambda z, y: F.mse_loss(z[:, 0], y.float()),
        lambda z, y: F.nll_loss(z.log_softmax(1), y),
        lambda z, y: F.binary_cross_entropy_with_logits(z[:, 0], (y > 0).float()),
    ],
)
def test_found_in_every_form(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    assert len(found(loop_of(dead, loss))) == 1


def begins_at_zero() -> nn.Module:
    net = nn.Linear(4, 3)
    nn.init.zeros_(net.weight)
    nn.init.zeros_(net.bias)
    return net


class Recovers(nn.Module):
    """Its input is thrown away up to the 20th call."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.calls = nn.Linear(4, 3), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        made: Tensor = self.head(x * (self.calls > 20))
        return made


@pytest.mark.parametrize(
    "loop",
    [
        loop_of(lambda: nn.Linear(4, 3)),
        loop_of(begins_at_zero),
        loop_of(Recovers),
        loop_of(dead, steps=10),
        loop_of(dead, y=torch.ones(8).long()),
        loop_of(dead, samples=3),
        loop_of(dead, lambda z, y: F.cross_entropy(z + 1e-4 * torch.randn(8, 3), y)),
        loop_of(dead, lambda z, y: (z[:, 0] - y).square().mean()),  # made by hand: not heard
    ],
)
def test_look_alikes_are_left_alone(loop: Callable[[], None]) -> None:
    assert found(loop) == []
