"""What is remembered of a scheduler's life, and how a run says that it ends."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as schedules

import loopkit
from loopkit import Epochs, Finding, Run, SchedulerReading, Severity, Shape, hookimpl
from loopkit.horizon import shape_of
from tests.loops import adamw, loader, loss_of, model
from tests.watched import line_of


def _partial(step: int, **_: int) -> float:
    return 1.0


def _optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD(model().parameters(), lr=0.1)


TOTAL = 77


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda o: schedules.CosineAnnealingLR(o, 5), Shape(horizon=5, climbs=True)),
        (lambda o: schedules.OneCycleLR(o, 0.1, epochs=3, steps_per_epoch=4), Shape(horizon=12)),
        (lambda o: schedules.PolynomialLR(o, 7), Shape(horizon=7)),
        (lambda o: schedules.LinearLR(o, 0.1, 1.0, 6), Shape(warmup=6)),
        (lambda o: schedules.LinearLR(o, 1.0, 0.1, 6), Shape(horizon=6, levels=True)),
        (lambda o: schedules.StepLR(o, 4), Shape(every=4, decays=True)),
        (lambda o: schedules.MultiStepLR(o, [3, 9]), Shape(horizon=9, levels=True, decays=True)),
        (lambda o: schedules.ExponentialLR(o, 0.9), Shape(decays=True)),
        (lambda o: schedules.CosineAnnealingWarmRestarts(o, 4), Shape(cycles=True)),
        (lambda o: schedules.CyclicLR(o, 0.01, 0.1), Shape(cycles=True)),
        (lambda o: schedules.LambdaLR(o, lambda step: step / TOTAL), Shape(numbers=(77,))),
        (lambda o: schedules.LambdaLR(o, functools.partial(_partial, total=9)), Shape(numbers=(9,))),
        (
            lambda o: schedules.LambdaLR(o, functools.partial(_partial, num_warmup_steps=2, num_training_steps=9)),
            Shape(horizon=9, warmup=2),
        ),
        (
            lambda o: schedules.SequentialLR(
                o, [schedules.LinearLR(o, 0.1, 1.0, 3), schedules.CosineAnnealingLR(o, 5)], [3]
            ),
            Shape(horizon=8, warmup=3, climbs=True),
        ),
        (
            lambda o: schedules.ChainedScheduler(
                [schedules.ConstantLR(o, 0.1, 2), schedules.CosineAnnealingLR(o, 5)]
            ),
            Shape(horizon=5, warmup=2, climbs=True),
        ),
    ],
)
def test_the_shape_of_each_schedule(make: Callable[[torch.optim.Optimizer], Any], shape: Shape) -> None:
    assert shape_of(make(_optimizer())) == shape


def test_a_scheduler_that_lacks_what_its_class_has_is_not_known() -> None:
    class Odd(schedules.StepLR):
        def __init__(self) -> None:
            pass

    assert shape_of(Odd()) == Shape()


def _trains(scheduler_of: Callable[[torch.optim.Optimizer], Any]) -> None:
    net = model()
    optimizer = adamw(net)
    scheduler = scheduler_of(optimizer)
    for _ in range(3):
        for x, y in loader():
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()
        scheduler.step()


def _half(optimizer: torch.optim.Optimizer) -> Any:
    return schedules.ExponentialLR(optimizer, 0.5)


def _lives(*loops: Callable[[], None]) -> list[SchedulerReading]:
    with loopkit.watch(autoload=False) as run:
        for loop in loops:
            loop()
            gc.collect()
    return run.schedules()


def test_a_life_counts_what_ran_from_construction_to_the_end() -> None:
    (reading,) = _lives(functools.partial(_trains, _half))
    life = reading.life
    assert (life.advances, life.steps, life.steps_then, life.backwards) == (3, 12, 12, 12)
    assert life.epochs == (Epochs(3, 4, 16),)
    assert life.trained() == Epochs(3, 4, 16)
    assert life.made is not None
    assert life.made.place.line == line_of(_half, "ExponentialLR")
    assert (life.base_rates, life.rates, life.share()) == ((0.01,), (0.00125,), 0.125)


@pytest.mark.parametrize(
    "make",
    [
        lambda o: schedules.SequentialLR(o, [schedules.LinearLR(o), schedules.ExponentialLR(o, 0.9)], [1]),
        lambda o: schedules.ChainedScheduler([schedules.ExponentialLR(o, 0.9)]),
    ],
)
def test_the_construction_of_nested_schedulers_is_heard(make: Callable[[torch.optim.Optimizer], Any]) -> None:
    (reading,) = _lives(functools.partial(_trains, make))
    assert (reading.life.steps, reading.life.backwards, reading.life.started) == (12, 12, 0)
    assert reading.life.made is not None


def test_lives_of_schedulers_that_are_gone_end_where_the_next_begins() -> None:
    first, second = _lives(*[functools.partial(_trains, _half)] * 2)
    assert [first.life.serial, second.life.serial] == [0, 1]
    assert (first.life.steps, first.life.backwards, first.life.epochs) == (12, 12, ())
    assert (second.life.steps, second.life.backwards, second.life.epochs) == (12, 12, (Epochs(3, 4, 16),))


def test_many_schedulers_leave_memory_flat_and_no_two_that_live_share_a_number() -> None:
    optimizer = _optimizer()
    with loopkit.watch(autoload=False) as run:
        kept = []
        for i in range(100):
            scheduler = _half(optimizer)
            scheduler.step()
            if i % 25 == 0:
                kept.append(scheduler)
        for each in kept:
            each.step()
        lives = run.schedules()
    assert len(lives) <= 40
    living = [reading.number for reading in lives if reading.life.advances == 2]
    assert len(set(living)) == len(kept) == 4


class _AtTheEnd:
    rule = "at-the-end"

    def __init__(self) -> None:
        self.cut_short: bool | None = None

    @hookimpl
    def run_finished(self, run: Run) -> Finding:
        self.cut_short = run.cut_short
        return Finding(self.rule, Severity.INFO, loopkit.Confidence.FACT, "", "", "")


class _Sink:
    def __init__(self) -> None:
        self.order: list[str] = []

    @hookimpl
    def finding_reported(self) -> None:
        self.order.append("reported")

    @hookimpl
    def run_finished(self, run: Run) -> None:
        self.order.append(f"finished with {len(run.findings)}")


def test_what_is_found_at_the_end_is_there_when_sinks_write() -> None:
    check, sink = _AtTheEnd(), _Sink()
    with loopkit.watch(autoload=False, plugins=[sink, check]):
        pass
    assert sink.order == ["reported", "finished with 1"]
    assert check.cut_short is False


def test_an_exception_cuts_a_run_short() -> None:
    heard = _AtTheEnd()
    with pytest.raises(KeyError), loopkit.watch(autoload=False, plugins=[heard]):
        raise KeyError
    assert heard.cut_short is True
