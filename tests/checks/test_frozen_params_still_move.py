"""frozen-params-still-move: found at the step that moves them, silent where freezing holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from loopkit import Confidence, Severity
from tests.loops import batches, loss_of, model
from tests.watched import find, line_of, rules

RULE = "frozen-params-still-move"


def train(net: Any, optimizer: torch.optim.Optimizer, count: int = 6, *, none: bool = True) -> None:
    for x, y in batches(count):
        optimizer.zero_grad(set_to_none=none)
        loss_of(net(x), y).backward()
        optimizer.step()


def momentum_goes_on() -> None:
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    train(net, optimizer, none=False)
    net[0].requires_grad_(False)
    train(net, optimizer, none=False)


SNAPSHOTS = {RULE: momentum_goes_on}


def test_found_at_the_step() -> None:
    (finding,) = find(momentum_goes_on)
    assert finding.rule == RULE
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(train, "optimizer.step()")
    assert finding.evidence["frozen"] == 2


def test_found_where_weight_decay_goes_on() -> None:
    def loop() -> None:
        net = model()
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.1)
        train(net, optimizer, none=False)
        net[0].requires_grad_(False)
        train(net, optimizer, none=False)

    assert rules(loop) == [RULE]


def test_found_where_an_old_gradient_stays() -> None:
    def loop() -> None:
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        train(net, optimizer)
        net[0].requires_grad_(False)
        for x, y in batches(6):
            net[2].zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()

    assert RULE in rules(loop)


@pytest.mark.parametrize("how", ["none", "plain", "out", "start"])
def test_silent_where_freezing_holds(how: str) -> None:
    def loop() -> None:
        net = model()
        if how == "start":
            net[0].requires_grad_(False)
        optimizer: torch.optim.Optimizer = torch.optim.SGD(
            net.parameters(), lr=0.1, momentum=0.0 if how == "plain" else 0.9
        )
        train(net, optimizer, none=False)
        net[0].requires_grad_(False)
        if how == "none":
            for each in net[0].parameters():
                each.grad = None
        if how == "out":
            optimizer = torch.optim.SGD(net[2].parameters(), lr=0.1, momentum=0.9)
        train(net, optimizer, none=False)

    assert rules(loop) == []


def test_silent_on_a_schedule_of_freezing_that_clears_to_none() -> None:
    def loop() -> None:
        net = model()
        optimizer = torch.optim.Adam(net.parameters(), lr=0.1, weight_decay=0.1)
        for number in range(4):
            net[0].requires_grad_(number % 2 == 0)
            train(net, optimizer, 3)

    assert rules(loop) == []


def test_silent_where_it_is_frozen_between_backward_and_step() -> None:
    def loop() -> None:
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        for x, y in batches(6):
            net.requires_grad_(True)
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            net[0].requires_grad_(False)
            optimizer.step()

    assert rules(loop) == []
