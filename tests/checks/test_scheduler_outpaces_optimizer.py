"""scheduler-outpaces-optimizer: found where it is, silent on what looks like it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as schedules

from loopkit import Confidence, Finding, Severity
from tests.loops import adamw, loader, loss_of, model
from tests.watched import find, line_of, rules

RULE = "scheduler-outpaces-optimizer"
Make = Callable[[torch.optim.Optimizer], Any]

pytestmark = pytest.mark.filterwarnings("ignore:Detected call of")


def falling_to(total: int) -> Make:
    return lambda optimizer: schedules.LambdaLR(optimizer, lambda step: max(0.1, 1 - step / total))


def by_micro_batch(make: Make, *, window: int = 4, epochs: int = 2, length: int = 24, times: int = 1) -> None:
    net = model()
    optimizer = adamw(net)
    scheduler = make(optimizer)
    for _ in range(epochs):
        for i, (x, y) in enumerate(loader(samples=4 * length)):
            (loss_of(net(x), y) / window).backward()
            if (i + 1) % window == 0:
                optimizer.step()
                optimizer.zero_grad()
            for _ in range(times):
                scheduler.step()


def inside_the_window() -> None:
    net = model()
    optimizer = adamw(net)
    data = loader(samples=96)
    epochs, window = 2, 4
    scheduler = schedules.CosineAnnealingLR(optimizer, T_max=epochs * len(data) // window)
    for _ in range(epochs):
        for i, (x, y) in enumerate(data):
            (loss_of(net(x), y) / window).backward()
            if (i + 1) % window == 0:
                optimizer.step()
                optimizer.zero_grad()
            scheduler.step()


def from_two_lines() -> None:
    net = model()
    optimizer = adamw(net)
    schedule = schedules.ExponentialLR(optimizer, 0.99)
    for x, y in loader(samples=64):
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()
        schedule.step()
        x.mean()
        schedule.step()  # again


def on_the_other_optimizer() -> None:
    actor, critic = model(), model()
    ours, theirs = adamw(actor), adamw(critic)
    first = schedules.ExponentialLR(ours, gamma=0.99)
    second = schedules.ExponentialLR(ours, gamma=0.98)
    for x, y in loader(samples=64):
        for net, optimizer in ((actor, ours), (critic, theirs)):
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()
        second.step()
        first.step()


SNAPSHOTS = {
    "scheduler-outpaces-optimizer": inside_the_window,
    "scheduler-outpaces-optimizer-lines": from_two_lines,
    "scheduler-outpaces-optimizer-pair": on_the_other_optimizer,
}


def one(function: Callable[[], None]) -> Finding:
    (finding,) = find(function, select=[RULE])
    assert finding.rule == RULE
    return finding


def test_found_inside_the_window_at_the_scheduler_with_the_step_and_the_numbers() -> None:
    finding = one(inside_the_window)
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(inside_the_window, "scheduler.step()")
    assert finding.places["step"].line == line_of(inside_the_window, "optimizer.step()")
    assert finding.places["scheduler made"].line == line_of(inside_the_window, "T_max")
    assert "advanced 4 times for each step of AdamW" in finding.seen
    assert "48 advances, 12 updates; it reached its end at advance 12, after about 3 of them" in finding.seen


def test_found_from_two_lines() -> None:
    finding = one(from_two_lines)
    assert finding.severity is Severity.WARNING
    assert finding.places["second advance"].line == line_of(from_two_lines, "# again")
    assert "advanced 2 times for each step of AdamW, from two lines, " in finding.seen
    assert finding.seen.endswith(": 32 advances, 16 updates")


def test_found_on_the_other_optimizer_where_the_second_was_made() -> None:
    finding = one(on_the_other_optimizer)
    assert finding.place is not None
    assert finding.place.line == line_of(on_the_other_optimizer, "second =")
    assert finding.places["first scheduler"].line == line_of(on_the_other_optimizer, "first =")
    assert "two ExponentialLR schedulers drive AdamW" in finding.seen
    assert "AdamW #2, which steps too, has no scheduler" in finding.seen


@pytest.mark.parametrize(
    ("severity", "make"),
    [
        (Severity.WARNING, falling_to(12)),
        (Severity.WARNING, lambda o: schedules.PolynomialLR(o, 12)),
        (Severity.INFO, lambda o: schedules.ExponentialLR(o, 0.99)),
        (Severity.INFO, lambda o: schedules.StepLR(o, 10)),
    ],
)
def test_found_with(severity: Severity, make: Make) -> None:
    assert one(functools.partial(by_micro_batch, make)).severity is severity


def test_found_where_one_cycle_raised_past_its_end() -> None:
    def raises() -> None:
        by_micro_batch(lambda o: schedules.OneCycleLR(o, 0.1, total_steps=12))

    with pytest.raises(ValueError, match="Tried to step"):
        find(raises)

    from loopkit import watch

    run = watch(skip=["console"])
    with pytest.raises(ValueError, match="Tried to step"), run as opened:
        raises()
    assert [finding.rule for finding in opened.findings] == [RULE]


@pytest.mark.parametrize(
    "make",
    [
        lambda o: schedules.CosineAnnealingLR(o, 48),
        lambda o: schedules.CosineAnnealingLR(o, 100),
        lambda o: schedules.OneCycleLR(o, 0.1, total_steps=49),
        falling_to(48),
        lambda o: schedules.CosineAnnealingWarmRestarts(o, 4),
    ],
)
def test_silent_on_a_schedule_in_micro_batches(make: Make) -> None:
    assert rules(functools.partial(by_micro_batch, make)) == []


def test_silent_on_one_advance_for_each_process() -> None:
    make = functools.partial(schedules.CosineAnnealingLR, T_max=20)
    assert RULE not in rules(functools.partial(by_micro_batch, make, window=1, times=2))


def test_silent_on_a_player_that_steps_rarely() -> None:
    def gan() -> None:
        net, judge = model(), model()
        ours, theirs = adamw(net), adamw(judge)
        both = [schedules.CosineAnnealingLR(each, 10) for each in (ours, theirs)]
        for i, (x, y) in enumerate(loader(samples=160)):
            theirs.zero_grad()
            loss_of(judge(x), y).backward()
            theirs.step()
            if i % 5 == 0:
                ours.zero_grad()
                loss_of(net(x), y).backward()
                ours.step()
            for scheduler in both:
                scheduler.step()

    assert RULE not in rules(gan)


def test_silent_on_warm_up_by_batch_and_decay_by_epoch() -> None:
    def two() -> None:
        net = model()
        optimizer = adamw(net)
        warmup = schedules.LinearLR(optimizer, 0.1, 1.0, 4)
        decay = schedules.ExponentialLR(optimizer, 0.9)
        for _ in range(4):
            for x, y in loader():
                optimizer.zero_grad()
                loss_of(net(x), y).backward()
                optimizer.step()
                warmup.step()
            decay.step()

    assert rules(two) == []


def test_silent_on_a_scheduler_by_epoch_under_a_window_of_several_epochs() -> None:
    def slow() -> None:
        net = model()
        optimizer = adamw(net)
        scheduler = schedules.CosineAnnealingLR(optimizer, 10)
        for epoch in range(24):
            for x, y in loader():
                loss_of(net(x), y).backward()
            if epoch % 2:
                optimizer.step()
                optimizer.zero_grad()
            scheduler.step()

    assert RULE not in rules(slow)


def test_silent_on_steps_that_a_scaler_skipped() -> None:
    def skips() -> None:
        net = model()
        optimizer = adamw(net)
        scheduler = schedules.CosineAnnealingLR(optimizer, 10)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60, growth_interval=2)
        for x, y in loader(samples=160):
            optimizer.zero_grad()
            scaler.scale(loss_of(net(x), y)).backward()
            scaler.step(optimizer)
            scaler.update()
            scheduler.step()

    assert RULE not in rules(skips)


@pytest.mark.parametrize("second", [lambda o: schedules.LinearLR(o, 0.5, 1.0, 4), None])
def test_silent_on_two_schedulers_that_belong_together(second: Make | None) -> None:
    """Of two classes while another optimizer has a constant rate; or of one class, with a scheduler on each."""

    def pair() -> None:
        actor, critic = model(), model()
        ours, theirs = adamw(actor), adamw(critic)
        both = [
            schedules.ExponentialLR(ours, 0.99),
            second(ours) if second else schedules.ExponentialLR(theirs, 0.99),
        ]
        for x, y in loader(samples=64):
            for net, optimizer in ((actor, ours), (critic, theirs)):
                optimizer.zero_grad()
                loss_of(net(x), y).backward()
                optimizer.step()
            for scheduler in both:
                scheduler.step()

    assert rules(pair) == []
