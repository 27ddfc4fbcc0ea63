"""unfreeze-without-effect: found where the second optimizer is made, silent on ordinary freezing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from loopkit import Confidence, Finding, Severity
from tests.loops import batches, loss_of, model
from tests.watched import find, line_of, rules

RULE = "unfreeze-without-effect"


def train(net: nn.Module, optimizer: torch.optim.Optimizer, count: int = 4) -> None:
    for x, y in batches(count):
        loss_of(net(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()


def forgotten() -> None:
    net = model()
    net[0].requires_grad_(False)
    train(net, torch.optim.Adam(net[2].parameters(), lr=0.01))
    second = torch.optim.Adam(net.parameters(), lr=0.01)
    train(net, second)


SNAPSHOTS = {RULE: forgotten}


def only(found: list[Finding]) -> Finding:
    (finding,) = found
    assert finding.rule == RULE
    return finding


def test_found_where_the_second_optimizer_is_constructed() -> None:
    finding = only(find(forgotten))
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.FACT)
    assert finding.place is not None
    assert finding.place.line == line_of(forgotten, "second = ")
    assert (finding.evidence["frozen"], finding.evidence["trainable"]) == (2, 2)


def test_found_where_a_group_is_added() -> None:
    def loop() -> None:
        net = model()
        net[0].requires_grad_(False)
        optimizer = torch.optim.Adam(net[2].parameters(), lr=0.01)
        train(net, optimizer)
        optimizer.add_param_group({"params": net[0].parameters(), "lr": 0.001})
        train(net, optimizer, 8)

    assert only(find(loop)).evidence["frozen"] == 2


def test_found_where_the_first_optimizer_is_still_there() -> None:
    def loop() -> None:
        net = model()
        net[0].requires_grad_(False)
        first = torch.optim.Adam(net[2].parameters(), lr=0.01)
        train(net, first)
        train(net, torch.optim.Adam(net.parameters(), lr=0.01))
        assert first is not None

    assert RULE in rules(loop)


@pytest.mark.parametrize("late", [False, True])
def test_silent_where_it_is_unfrozen(late: bool) -> None:
    def loop() -> None:
        net = model()
        net[0].requires_grad_(False)
        train(net, torch.optim.Adam(net[2].parameters(), lr=0.01))
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        if late:
            train(net, optimizer, 5)
        net[0].requires_grad_(True)
        train(net, optimizer, 5)

    assert rules(loop) == []


def test_silent_where_everything_was_passed_at_once() -> None:
    def loop() -> None:
        net = model()
        net[0].requires_grad_(False)
        train(net, torch.optim.Adam(net.parameters(), lr=0.01))

    assert rules(loop) == []


def test_silent_where_the_second_phase_adds_anything_trainable() -> None:
    def loop() -> None:
        net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
        net[:2].requires_grad_(False)
        train(net, torch.optim.Adam(net[2].parameters(), lr=0.01))
        net[1].requires_grad_(True)
        train(net, torch.optim.Adam(net.parameters(), lr=0.01))

    assert rules(loop) == []


def test_silent_on_another_model_with_a_frozen_part() -> None:
    def loop() -> None:
        for _ in range(2):
            net = model()
            net[0].requires_grad_(False)
            train(net, torch.optim.Adam(net.parameters(), lr=0.01))

    assert rules(loop) == []
