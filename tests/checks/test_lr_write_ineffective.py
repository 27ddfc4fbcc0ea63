"""lr-write-ineffective: found where the rate is lost, silent where it is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from loopkit import Confidence, Severity
from tests.loops import batches, loss_of, model
from tests.watched import find, line_of, rules

RULE = "lr-write-ineffective"
Scheduler = torch.optim.lr_scheduler.LRScheduler


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def overwritten() -> None:
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=20)
    for x, y in batches(20):
        set_rate(optimizer, 0.1)
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()
        scheduler.step()


def dead_attribute() -> None:
    net = model()
    optimizer: Any = torch.optim.SGD(net.parameters(), lr=0.1)
    optimizer.lr = 0.01
    for x, y in batches():
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()


SNAPSHOTS = {RULE: overwritten, f"{RULE}-attribute": dead_attribute}


def test_found_at_the_scheduler_that_is_overwritten() -> None:
    (finding,) = find(overwritten)
    assert finding.rule == RULE
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(overwritten, "scheduler.step()")
    assert finding.evidence["used"] == [0.1]


def test_found_where_the_rate_is_an_attribute() -> None:
    (finding,) = find(dead_attribute)
    assert finding.rule == RULE
    assert finding.place is not None
    assert finding.place.line == line_of(dead_attribute, "optimizer.step()")
    assert finding.subject == "SGD.lr"
    assert "lr = 0.01 was set" in finding.seen


def test_found_for_another_setting() -> None:
    def loop() -> None:
        net = model()
        optimizer: Any = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        optimizer.momentum = 0.5
        train(net, optimizer)

    assert [each.subject for each in find(loop)] == ["SGD.momentum"]


def train(
    net: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    count: int = 20,
    before: Callable[[int], object] = int,
    after: Callable[[int], object] = int,
) -> None:
    for number, (x, y) in enumerate(batches(count)):
        before(number)
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()
        after(number)


def with_scheduler(before: Callable[[torch.optim.Optimizer, int], object], count: int = 40) -> list[str]:
    def loop() -> None:
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        train(net, optimizer, count, lambda number: before(optimizer, number), lambda number: scheduler.step())

    return rules(loop)


def test_silent_on_a_scheduler_alone() -> None:
    assert with_scheduler(lambda optimizer, number: None) == []


def test_silent_on_a_warm_up_by_hand() -> None:
    def warm(optimizer: torch.optim.Optimizer, number: int) -> None:
        if number < 10:
            set_rate(optimizer, 0.01 * (number + 1))

    assert with_scheduler(warm) == []


def test_silent_on_a_constant_warm_up_by_hand() -> None:
    assert with_scheduler(lambda optimizer, number: set_rate(optimizer, 0.1) if number < 12 else None) == []


def test_silent_on_a_floor() -> None:
    def floor(optimizer: torch.optim.Optimizer, number: int) -> None:
        set_rate(optimizer, max(optimizer.param_groups[0]["lr"], 0.04))

    assert with_scheduler(floor) == []


def test_silent_on_scaling() -> None:
    def scale(optimizer: torch.optim.Optimizer, number: int) -> None:
        set_rate(optimizer, optimizer.param_groups[0]["lr"] * 0.5)

    assert with_scheduler(scale) == []


def test_silent_on_rates_by_hand_without_a_scheduler() -> None:
    def loop() -> None:
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        train(net, optimizer, 20, lambda number: set_rate(optimizer, 0.1 / (1 + number)))

    assert rules(loop) == []


@pytest.mark.parametrize("per_epoch", [False, True])
def test_silent_on_a_constant_schedule(per_epoch: bool) -> None:
    def loop() -> None:
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        scheduler: Scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1000)

        def after(number: int) -> None:
            if not per_epoch or number % 5 == 4:
                scheduler.step()

        train(net, optimizer, 20, lambda number: set_rate(optimizer, 0.1), after)

    assert RULE not in rules(loop)


def test_silent_on_several_schedulers_of_one_optimizer() -> None:
    def loop() -> None:
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        both = [
            torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=8),
            torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95),
        ]

        def advance() -> None:
            for each in both:
                each.step()

        train(net, optimizer, 20, after=lambda number: advance())

    assert RULE not in rules(loop)


class Own(torch.optim.SGD):
    """Keeps its rate as an attribute too."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, lr=lr)
        self.lr = lr / 2


def test_silent_on_an_attribute_of_the_users_own() -> None:
    def loop() -> None:
        net = model()
        train(net, Own(net.parameters(), 0.1))

    assert rules(loop) == []
