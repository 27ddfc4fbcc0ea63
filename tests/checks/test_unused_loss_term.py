"""unused-loss-term: a term that no backward sees is found where something learns nothing for it; nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loopkit import Confidence, Finding, Severity
from loopkit_plugins.checks.loss.unused_loss_term import UnusedLossTerm
from tests.watched import find, line_of

RULE = "unused-loss-term"
F = nn.functional
LABELS = torch.arange(8) % 3
BOXES = torch.randn(8, 2)
STEPS = 20


def found(loop: Callable[[], Any]) -> list[Finding]:
    """What this rule says of a loop."""
    return [each for each in find(loop, autoload=False, plugins=[UnusedLossTerm]) if each.rule == RULE]


class Detector(nn.Module):
    """Two heads on one stem."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.classify, self.locate = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.stem(x).tanh()
        return self.classify(h), self.locate(h)


def assigned_by_a_slip() -> None:
    net = Detector()
    optimizer = torch.optim.Adam(net.parameters())
    for _ in range(STEPS):
        logits, where = net(torch.randn(8, 4))
        loss = F.cross_entropy(logits, LABELS)
        # fmt: off
        loss =+ F.smooth_l1_loss(where, BOXES)
        # fmt: on
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def forgotten() -> None:
    net = Detector()
    optimizer = torch.optim.Adam(net.parameters())
    for _ in range(STEPS):
        optimizer.zero_grad()
        logits, where = net(torch.randn(8, 4))
        classes = F.cross_entropy(logits, LABELS)
        boxes = F.smooth_l1_loss(where, BOXES)
        boxes.item()
        classes.backward()
        optimizer.step()


SNAPSHOTS = {RULE: forgotten, f"{RULE}-slip": assigned_by_a_slip}


def of(losses: Callable[[int, Tensor, Tensor], Tensor], steps: int = STEPS) -> list[Finding]:
    """What is said of a loop that sends this loss of the two heads backward."""

    def loop() -> None:
        net = Detector()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        for step in range(steps):
            optimizer.zero_grad()
            losses(step, *net(torch.randn(8, 4))).backward()
            optimizer.step()

    return found(loop)


def test_a_slip_is_found_at_its_line() -> None:
    (finding,) = found(assigned_by_a_slip)
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(assigned_by_a_slip, "=+")
    assert finding.places["loss"].line == line_of(assigned_by_a_slip, "F.cross_entropy")
    assert finding.evidence["modules"] == ["Detector.classify"]
    assert "+=" in finding.remedy


def test_a_forgotten_term_is_found_where_it_is_made() -> None:
    (finding,) = found(forgotten)
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.FACT)
    assert finding.place is not None
    assert finding.place.line == line_of(forgotten, "F.smooth_l1_loss")
    assert finding.evidence["modules"] == ["Detector.locate"]


def test_a_slip_is_found_where_all_parameters_learn() -> None:
    def loop() -> None:
        net = nn.Linear(4, 3)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(STEPS):
            optimizer.zero_grad()
            out = net(torch.randn(8, 4))
            loss = F.cross_entropy(out, LABELS)
            # fmt: off
            loss =+ 0.01 * out.square().mean()
            # fmt: on
            loss.backward()
            optimizer.step()

    (finding,) = found(loop)
    assert finding.severity is Severity.ERROR


def _both(step: int, logits: Tensor, where: Tensor) -> Tensor:
    loss = F.cross_entropy(logits, LABELS)
    loss += F.smooth_l1_loss(where, BOXES)
    return loss


def _without_weight(step: int, logits: Tensor, where: Tensor) -> Tensor:
    return F.cross_entropy(logits, LABELS) + 0 * F.smooth_l1_loss(where, BOXES)


def _from_later_on(step: int, logits: Tensor, where: Tensor) -> Tensor:
    loss, boxes = F.cross_entropy(logits, LABELS), F.smooth_l1_loss(where, BOXES)
    return loss + boxes if step >= 10 else loss


def _now_and_then(step: int, logits: Tensor, where: Tensor) -> Tensor:
    loss, boxes = F.cross_entropy(logits, LABELS), F.smooth_l1_loss(where, BOXES)
    return loss + boxes if step == 11 else loss


def _shown(step: int, logits: Tensor, where: Tensor) -> Tensor:
    loss = F.cross_entropy(logits, LABELS) + F.smooth_l1_loss(where, BOXES)
    F.l1_loss(where, BOXES).item()
    F.mse_loss(where, BOXES).item()
    return loss


def _without_a_graph(step: int, logits: Tensor, where: Tensor) -> Tensor:
    with torch.no_grad():
        F.smooth_l1_loss(where, BOXES)
    F.smooth_l1_loss(where.detach(), BOXES)
    return F.cross_entropy(logits, LABELS)


def _in_turn(step: int, logits: Tensor, where: Tensor) -> Tensor:
    losses = F.cross_entropy(logits, LABELS), F.smooth_l1_loss(where, BOXES)
    return losses[step % 2]


@pytest.mark.parametrize(
    "losses", [_both, _without_weight, _from_later_on, _now_and_then, _shown, _without_a_graph, _in_turn]
)
def test_silent(losses: Callable[[int, Tensor, Tensor], Tensor]) -> None:
    assert of(losses) == []


def test_silent_in_a_short_run() -> None:
    def losses(step: int, logits: Tensor, where: Tensor) -> Tensor:
        F.smooth_l1_loss(where, BOXES)
        return F.cross_entropy(logits, LABELS)

    assert of(losses, steps=6) == []
    assert len(of(losses)) == 1


def test_silent_about_a_loss_that_is_sent_by_another_player() -> None:
    def loop() -> None:
        net, other = nn.Linear(4, 3), nn.Linear(4, 3)
        first, second = (torch.optim.Adam(each.parameters()) for each in (net, other))
        for _ in range(STEPS):
            x = torch.randn(8, 4)
            losses = F.cross_entropy(net(x), LABELS), F.cross_entropy(other(x), LABELS)
            for loss, optimizer in zip(losses, (first, second), strict=True):
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    assert found(loop) == []


def test_silent_about_a_loss_sent_after_the_next_forward() -> None:
    def loop() -> None:
        net = Detector()
        optimizer = torch.optim.Adam(net.parameters())
        before: Tensor | None = None
        for _ in range(STEPS):
            optimizer.zero_grad()
            logits, where = net(torch.randn(8, 4))
            loss = F.cross_entropy(logits, LABELS)
            if before is not None:
                before.backward()
            before = F.smooth_l1_loss(where.detach() * net.locate.weight.sum(), BOXES)
            loss.backward()
            optimizer.step()

    assert found(loop) == []


def test_silent_about_a_plain_sign() -> None:
    def loop() -> None:
        net = nn.Linear(4, 3)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(STEPS):
            optimizer.zero_grad()
            out = net(torch.randn(8, 4))
            loss = F.cross_entropy(out, LABELS)
            loss = loss + out.square().mean()
            # fmt: off
            loss =+ loss
            # fmt: on
            loss.backward()
            optimizer.step()

    assert found(loop) == []
