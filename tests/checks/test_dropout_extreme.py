"""dropout-extreme: found where it is, silent on what looks like it."""

from __future__ import annotations

from torch import nn

from loopkit import Confidence, Severity
from tests.loops import adamw, batches, loss_of
from tests.watched import find, line_of, rules


def with_rate(p: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(p), nn.Linear(8, 2))


def share_to_keep() -> None:
    net = with_rate(0.9)
    optimizer = adamw(net)
    for x, y in batches(4):
        optimizer.zero_grad()
        out = net(x)
        loss_of(out, y).backward()
        optimizer.step()


SNAPSHOTS = {"dropout-extreme": share_to_keep}


def train(net: nn.Module) -> None:
    optimizer = adamw(net)
    for x, y in batches(4):
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()


def test_found_at_the_forward() -> None:
    (finding,) = find(share_to_keep)
    assert finding.rule == "dropout-extreme"
    assert (finding.severity, finding.confidence) == (Severity.INFO, Confidence.FACT)
    assert finding.place is not None
    assert finding.place.line == line_of(share_to_keep, "net(x)")
    assert "Sequential.1 drops 90% of its input" in finding.seen


def test_found_where_nothing_passes() -> None:
    found = [each for each in find(lambda: train(with_rate(1.0))) if each.rule == "dropout-extreme"]
    assert len(found) == 1
    assert "it lets nothing through" in found[0].why


def test_silent_up_to_a_half_and_in_evaluation_mode() -> None:
    assert rules(lambda: train(with_rate(0.5))) == []

    def loop() -> None:
        net = with_rate(0.9)
        net[1].eval()
        train(net)

    assert rules(loop) == []
