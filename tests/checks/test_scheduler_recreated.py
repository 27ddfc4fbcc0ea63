"""scheduler-recreated: found where it is, silent on what looks like it."""

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

RULE = "scheduler-recreated"
Make = Callable[[torch.optim.Optimizer], Any]

pytestmark = pytest.mark.filterwarnings("ignore:Detected call of")


def epoch(net: nn.Module, optimizer: torch.optim.Optimizer, data: Any, scheduler: Any = None) -> None:
    for x, y in data:
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def cosine(optimizer: torch.optim.Optimizer) -> Any:
    return schedules.CosineAnnealingLR(optimizer, T_max=6)


def each_epoch(make: Make = cosine, by_update: bool = False, epochs: int = 6, anew: bool = False) -> None:
    net, data = model(), loader()
    optimizer = adamw(net)
    for _ in range(epochs):
        if anew:
            net = model()
            optimizer = adamw(net)
        scheduler = make(optimizer)
        epoch(net, optimizer, data, scheduler if by_update else None)
        if not by_update:
            scheduler.step()


SNAPSHOTS = {RULE: each_epoch}


def one(function: Callable[[], None]) -> Finding:
    (finding,) = find(function, select=[RULE])
    return finding


def test_found_where_it_is_made() -> None:
    finding = one(each_epoch)
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(cosine, "CosineAnnealingLR")
    assert "6 CosineAnnealingLR schedulers were made at this line for the same AdamW" in finding.seen
    assert finding.seen.endswith("none came further than advance 1 of 6")


@pytest.mark.parametrize(
    ("make", "severity"),
    [
        (lambda o: schedules.StepLR(o, 10), Severity.WARNING),
        (lambda o: schedules.OneCycleLR(o, 0.1, total_steps=24), Severity.WARNING),
        (lambda o: schedules.ExponentialLR(o, 0.9), Severity.WARNING),
        (lambda o: schedules.LinearLR(o, 0.1, 1.0, total_iters=10), Severity.WARNING),
        (lambda o: schedules.LambdaLR(o, lambda step: 0.9**step), Severity.INFO),
    ],
)
@pytest.mark.parametrize("by_update", [False, True])
def test_found_with(make: Make, severity: Severity, by_update: bool) -> None:
    assert one(functools.partial(each_epoch, make, by_update)).severity is severity


@pytest.mark.parametrize(
    "loop",
    [
        functools.partial(each_epoch, anew=True),
        functools.partial(each_epoch, lambda o: schedules.CosineAnnealingLR(o, T_max=4), by_update=True),
        functools.partial(each_epoch, lambda o: schedules.CosineAnnealingWarmRestarts(o, 100)),
        functools.partial(each_epoch, epochs=2),
    ],
)
def test_look_alikes_are_left_alone(loop: Callable[[], None]) -> None:
    assert RULE not in rules(loop)


def test_a_scheduler_for_each_of_several_optimizers_is_left_alone() -> None:
    def players() -> None:
        nets = [model() for _ in range(4)]
        optimizers = [adamw(net) for net in nets]
        each = [cosine(optimizer) for optimizer in optimizers]
        for _ in range(2):
            for net, optimizer, scheduler in zip(nets, optimizers, each, strict=True):
                epoch(net, optimizer, loader())
                scheduler.step()

    assert RULE not in rules(players)
