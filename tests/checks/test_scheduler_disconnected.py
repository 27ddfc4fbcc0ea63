"""scheduler-disconnected: found where it is, silent on what looks like it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedules

from loopkit import Confidence, Finding, Severity
from tests.loops import adamw, loader, loss_of, model
from tests.watched import find, line_of, rules

RULE = "scheduler-disconnected"
Make = Callable[[torch.optim.Optimizer], Any]

pytestmark = pytest.mark.filterwarnings("ignore:Detected call of", "ignore:Seems like")


def epoch(net: nn.Module, optimizer: torch.optim.Optimizer, data: Any, each: Any = None) -> None:
    for x, y in data:
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()
        if each is not None:
            each.step()


def never_advanced() -> None:
    net, data = model(), loader()
    optimizer = adamw(net)
    scheduler = schedules.StepLR(optimizer, 2)
    for _ in range(3):
        epoch(net, optimizer, data)
    assert scheduler.last_epoch == 0


def of_a_replaced_optimizer(each: bool = False) -> None:
    net, data = model(), loader()
    optimizer = adamw(net)
    scheduler = schedules.ExponentialLR(optimizer, 0.9)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    for _ in range(4):
        epoch(net, optimizer, data, scheduler if each else None)
        if not each:
            scheduler.step()


SNAPSHOTS = {RULE: never_advanced, f"{RULE}-replaced": of_a_replaced_optimizer}


def one(function: Callable[[], None]) -> Finding:
    (finding,) = find(function, select=[RULE])
    return finding


def test_found_where_it_was_made_and_never_advanced() -> None:
    finding = one(never_advanced)
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.FACT)
    assert finding.place is not None
    assert finding.place.line == line_of(never_advanced, "StepLR")
    assert finding.seen == "the StepLR scheduler of AdamW never advanced, in 12 updates and 3 epochs"


@pytest.mark.parametrize("each", [False, True])
def test_found_on_an_optimizer_that_was_replaced(each: bool) -> None:
    finding = one(functools.partial(of_a_replaced_optimizer, each))
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(of_a_replaced_optimizer, "ExponentialLR")
    assert "AdamW #2 does, with 4 of the same parameters, and keeps its rate of 0.01" in finding.seen


def test_found_when_it_is_replaced_later() -> None:
    def later() -> None:
        net, data = model(), loader()
        optimizer = adamw(net)
        scheduler = schedules.ExponentialLR(optimizer, 0.9)
        for n in range(8):
            if n == 3:
                optimizer = torch.optim.AdamW(net.parameters(), lr=0.001)
            epoch(net, optimizer, data)
            scheduler.step()

    assert "AdamW #2" in one(later).seen


def test_found_in_a_loop_without_loaders() -> None:
    def bare() -> None:
        net = model()
        optimizer = adamw(net)
        scheduler = schedules.CosineAnnealingLR(optimizer, 30)
        epoch(net, optimizer, [(torch.randn(4, 4), torch.randn(4, 2))] * 30)
        del scheduler

    assert one(bare).severity is Severity.WARNING


def test_a_plateau_scheduler_that_was_never_asked_is_info() -> None:
    def asks_late() -> None:
        net, data = model(), loader()
        optimizer = adamw(net)
        scheduler = schedules.ReduceLROnPlateau(optimizer)
        for n in range(3):
            epoch(net, optimizer, data)
            if n > 5:
                scheduler.step(1.0)

    assert one(asks_late).severity is Severity.INFO


def inside_others() -> None:
    net, data = model(), loader()
    optimizer = adamw(net)
    warm, rest = schedules.LinearLR(optimizer, 0.5), schedules.ExponentialLR(optimizer, 0.9)
    scheduler = schedules.SequentialLR(optimizer, [warm, rest], [2])
    for _ in range(4):
        epoch(net, optimizer, data)
        scheduler.step()


def inside_a_warmup_of_the_users() -> None:
    class Warmup(schedules.LRScheduler):
        def __init__(self, optimizer: torch.optim.Optimizer, after: Any) -> None:
            self.after = after
            super().__init__(optimizer)

        def get_lr(self) -> list[float | torch.Tensor]:
            return [base * min(1.0, (self.last_epoch + 1) / 100) for base in self.base_lrs]

    net, data = model(), loader()
    optimizer = adamw(net)
    scheduler = Warmup(optimizer, schedules.ExponentialLR(optimizer, 0.9))
    for _ in range(3):
        epoch(net, optimizer, data, scheduler)


def its_turn_has_not_come() -> None:
    net, data = model(), loader()
    optimizer = adamw(net)
    first, second = schedules.LinearLR(optimizer, 0.5, 1.0, 4), schedules.ExponentialLR(optimizer, 0.9)
    for n in range(3):
        epoch(net, optimizer, data)
        (second if n > 5 else first).step()


def rates_by_hand() -> None:
    net, data = model(), loader()
    optimizer = adamw(net)
    scheduler = schedules.ExponentialLR(optimizer, 0.9)
    for n in range(3):
        for group in optimizer.param_groups:
            group["lr"] = scheduler.base_lrs[0] / (n + 1)
        epoch(net, optimizer, data)


def within_its_first_epoch() -> None:
    net = model()
    optimizer = adamw(net)
    scheduler = schedules.ExponentialLR(optimizer, 0.9)
    for n, (x, y) in enumerate(loader(samples=400)):
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()
        if n == 30:
            return
    scheduler.step()


def copies_the_rate() -> None:
    net, data = model(), loader()
    idle = torch.optim.SGD(net.parameters(), lr=0.1)
    scheduler = schedules.ExponentialLR(idle, 0.9)
    optimizer = adamw(net)
    for _ in range(4):
        for group in optimizer.param_groups:
            group["lr"] = scheduler.get_last_lr()[0]
        for x, y in data:
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()
        scheduler.step()
        for group in optimizer.param_groups:
            group["lr"] = scheduler.get_last_lr()[0]


def of_a_dummy() -> None:
    net, data = model(), loader()
    optimizer = adamw(net)
    weight = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = schedules.ExponentialLR(weight, 0.9)
    for _ in range(4):
        epoch(net, optimizer, data, scheduler)


def a_player_begins_later() -> None:
    nets, data = (model(), model()), loader()
    optimizers = [adamw(net) for net in nets]
    both = [schedules.ExponentialLR(each, 0.9) for each in optimizers]
    for n in range(5):
        epoch(nets[0], optimizers[0], data)
        if n > 3:
            epoch(nets[1], optimizers[1], data)
        for scheduler in both:
            scheduler.step()


def optimizers_take_turns() -> None:
    net, data = model(), loader()
    pair = [adamw(net), torch.optim.SGD(net.parameters(), lr=0.1)]
    both = [schedules.ExponentialLR(each, 0.9) for each in pair]
    for n in range(8):
        epoch(net, pair[n // 4], data)
        for scheduler in both:
            scheduler.step()


@pytest.mark.parametrize(
    "loop",
    [
        inside_others,
        inside_a_warmup_of_the_users,
        its_turn_has_not_come,
        rates_by_hand,
        within_its_first_epoch,
        copies_the_rate,
        of_a_dummy,
        a_player_begins_later,
        optimizers_take_turns,
    ],
)
def test_look_alikes_are_left_alone(loop: Callable[[], None]) -> None:
    assert RULE not in rules(loop)
