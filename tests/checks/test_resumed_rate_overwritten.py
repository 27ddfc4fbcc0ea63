"""resumed-rate-overwritten: found where it is, silent on what looks like it."""

from __future__ import annotations

import copy
import functools
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedules

from loopkit import Confidence, Finding, Severity
from tests.loops import adamw, batches, loss_of, model
from tests.watched import find, line_of, rules

RULE = "resumed-rate-overwritten"
Make = Callable[[torch.optim.Optimizer], Any]

pytestmark = pytest.mark.filterwarnings("ignore:Detected call of", "ignore:Seems like")


def warmed_up(optimizer: torch.optim.Optimizer) -> Any:
    members = [schedules.LinearLR(optimizer, 0.5, 1.0, 2), schedules.ExponentialLR(optimizer, 0.5)]
    return schedules.SequentialLR(optimizer, members, [2])


def train(net: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any, by_update: bool = True) -> None:
    for x, y in batches(5):
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()
        if by_update:
            scheduler.step()
    if not by_update:
        for _ in range(5):
            scheduler.step()


def resumes(make: Make = warmed_up, order: str = "osl", by_update: bool = True, write: float | None = None) -> None:
    """`order`: o loads the optimizer, s makes the scheduler, l loads it, w writes a rate by hand."""
    net = model()
    optimizer = adamw(net)
    scheduler = make(optimizer)
    train(net, optimizer, scheduler, by_update)
    saved, position = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(scheduler.state_dict())
    optimizer = adamw(net)
    for what in order:
        if what == "o":
            optimizer.load_state_dict(saved)
        elif what == "s":
            scheduler = make(optimizer)
        elif what == "l":
            scheduler.load_state_dict(position)
        else:
            rate = position["_last_lr"][0] if write is None else write
            optimizer.param_groups[0].__setitem__("lr", rate)
    train(net, optimizer, scheduler, by_update)


SNAPSHOTS = {RULE: resumes}


def one(function: Callable[[], None]) -> Finding:
    (finding,) = find(function, select=[RULE])
    return finding


@pytest.mark.parametrize("by_update", [False, True])
def test_found_where_the_scheduler_is_loaded(by_update: bool) -> None:
    finding = one(functools.partial(resumes, by_update=by_update))
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(resumes, "scheduler.load_state_dict")
    assert "stands at a learning rate of 0.00125, and AdamW, restored too, went on at 0.005" in finding.seen


@pytest.mark.parametrize(
    "make",
    [
        lambda o: schedules.LinearLR(o, 0.1, 1.0, 8),
        lambda o: schedules.ChainedScheduler([schedules.LinearLR(o, 0.1), schedules.ExponentialLR(o, 0.5)]),
    ],
)
def test_found_with(make: Make) -> None:
    assert one(functools.partial(resumes, make)).severity is Severity.WARNING


def test_a_rate_that_is_computed_from_the_base_rate_is_info() -> None:
    make: Make = functools.partial(schedules.LambdaLR, lr_lambda=lambda step: 0.8**step)
    assert one(functools.partial(resumes, make, by_update=False)).severity is Severity.INFO


@pytest.mark.parametrize("order", ["sol", "slo", "osw", "sl", "o", "slow"])
@pytest.mark.parametrize("by_update", [False, True])
def test_other_orders_and_rates_by_hand_are_left_alone(order: str, by_update: bool) -> None:
    assert RULE not in rules(functools.partial(resumes, order=order, by_update=by_update))


SCRIPT = """
import torch
from tests.checks.test_resumed_rate_overwritten import train, warmed_up
from tests.loops import adamw, model
net = model()
optimizer = adamw(net)
scheduler = warmed_up(optimizer)
train(net, optimizer, scheduler)
saved, position = optimizer.state_dict(), scheduler.state_dict()
optimizer = adamw(net)
optimizer.load_state_dict(saved)
scheduler = warmed_up(optimizer)
scheduler.load_state_dict(position)
for group, rate in zip(optimizer.param_groups, scheduler.get_last_lr()):
    WRITES
train(net, optimizer, scheduler)
"""


@pytest.mark.parametrize(("writes", "count"), [('group["lr"] = rate', 0), ("group.update(lr=rate)", 0), ("pass", 1)])
def test_a_script_that_writes_rates_is_left_alone(tmp_path: Path, writes: str, count: int) -> None:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT.replace("WRITES", writes), encoding="utf-8")
    assert len(find(lambda: runpy.run_path(str(path)), select=[RULE])) == count


def test_rates_put_right_by_hand_are_left_alone() -> None:
    assert RULE not in rules(functools.partial(resumes, order="oslw", by_update=False))


@pytest.mark.parametrize(
    "make", [lambda o: schedules.ExponentialLR(o, 0.7), lambda o: schedules.CosineAnnealingLR(o, 10)]
)
def test_schedulers_whose_constructor_keeps_the_rate_are_left_alone(make: Make) -> None:
    assert RULE not in rules(functools.partial(resumes, make))


def test_a_rate_that_is_chosen_is_left_alone() -> None:
    assert RULE not in rules(functools.partial(resumes, order="oswl", write=0.002))
