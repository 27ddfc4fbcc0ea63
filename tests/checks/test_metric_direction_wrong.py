"""metric-direction-wrong: found where it is, silent on what looks like it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as schedules

import loopkit
from loopkit import Confidence, Finding, Severity
from tests.loops import adamw, loader, loss_of, model
from tests.watched import find, line_of, rules

RULE = "metric-direction-wrong"

pytestmark = pytest.mark.filterwarnings("ignore:The epoch parameter", "ignore:To get the last learning rate")
Make = Callable[[torch.optim.Optimizer], Any]
Numbers = Callable[[int], Any]


def epochs(make: Make, after: Callable[[Any, int], None], count: int = 6) -> None:
    net, data = model(), loader()
    optimizer = adamw(net)
    scheduler = make(optimizer)
    for n in range(count):
        for x, y in data:
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()
        after(scheduler, n)


def steps_with_a_metric(scheduler: Any, n: int) -> None:
    scheduler.step(0.9 - 0.1 * n)


def steps_with_accuracy(scheduler: Any, n: int) -> None:
    accuracy = 0.5 + 0.05 * n
    scheduler.step(accuracy)


def steps_with_item_of_loss(scheduler: Any, n: int) -> None:
    val_loss = torch.tensor(2.0 - 0.1 * n)
    scheduler.step(val_loss.item())


def minimises() -> None:
    epochs(lambda o: schedules.ReduceLROnPlateau(o, patience=1), steps_with_accuracy)


def takes_it_for_an_epoch() -> None:
    epochs(lambda o: schedules.StepLR(o, 2), steps_with_a_metric)


SNAPSHOTS = {RULE: minimises, f"{RULE}-epoch": takes_it_for_an_epoch}


def one(function: Callable[[], None]) -> Finding:
    (finding,) = find(function, select=[RULE])
    return finding


def test_found_where_a_metric_is_taken_for_an_epoch() -> None:
    finding = one(takes_it_for_an_epoch)
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(steps_with_a_metric, "scheduler.step")


@pytest.mark.parametrize("metric", [lambda n: torch.tensor(0.5 - 0.1 * n), lambda n: 0.5 + 0.05 * n])
def test_found_with_tensors_and_with_what_rises(metric: Numbers) -> None:
    finding = one(
        functools.partial(epochs, lambda o: schedules.ExponentialLR(o, 0.9), lambda s, n: s.step(metric(n)))
    )
    assert finding.confidence is Confidence.PROOF


def test_found_where_an_accuracy_is_minimised_at_the_scheduler() -> None:
    finding = one(minimises)
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.HEURISTIC)
    assert finding.place is not None
    assert finding.place.line == line_of(minimises, "ReduceLROnPlateau")
    assert finding.places["scheduler"].line == line_of(steps_with_accuracy, "scheduler.step(")
    assert "the script calls it accuracy" in finding.seen


def test_found_where_a_loss_is_maximised() -> None:
    make: Make = functools.partial(schedules.ReduceLROnPlateau, mode="max")
    assert 'mode="max"' in one(functools.partial(epochs, make, steps_with_item_of_loss)).seen


def test_found_by_the_validation_loss() -> None:
    def after(scheduler: Any, n: int) -> None:
        loopkit.log("val/loss", 2.0 - 0.1 * n)
        scheduler.step([0.1 * n][0])

    assert "the validation loss fell" in one(functools.partial(epochs, schedules.ReduceLROnPlateau, after)).seen


def whole_epochs(scheduler: Any, n: int) -> None:
    scheduler.step(n)


def fractions(scheduler: Any, n: int) -> None:
    for i in range(4):
        scheduler.step(n + i / 4)


def negated(scheduler: Any, n: int) -> None:
    accuracy = 0.5 + 0.05 * n
    scheduler.step(-accuracy)


def error_rate(scheduler: Any, n: int) -> None:
    accuracy = 0.5 + 0.05 * n
    scheduler.step(1 - accuracy)


def overfits(scheduler: Any, n: int) -> None:
    val_loss = 0.5 + 0.05 * n
    loopkit.log("val/loss", val_loss)
    scheduler.step(val_loss)


def noisy(scheduler: Any, n: int) -> None:
    accuracy = 0.5 + 0.05 * (-1) ** n
    scheduler.step(accuracy)


def accuracy_loss(scheduler: Any, n: int) -> None:
    acc_loss = 0.5 + 0.05 * n
    scheduler.step(acc_loss)


@pytest.mark.parametrize(
    ("make", "after"),
    [
        (lambda o: schedules.StepLR(o, 2), whole_epochs),
        (lambda o: schedules.CosineAnnealingLR(o, 6), fractions),
        (lambda o: schedules.CosineAnnealingWarmRestarts(o, 2), fractions),
        (schedules.ReduceLROnPlateau, negated),
        (schedules.ReduceLROnPlateau, error_rate),
        (schedules.ReduceLROnPlateau, overfits),
        (schedules.ReduceLROnPlateau, noisy),
        (schedules.ReduceLROnPlateau, accuracy_loss),
        (schedules.ReduceLROnPlateau, steps_with_item_of_loss),
        (functools.partial(schedules.ReduceLROnPlateau, mode="max"), steps_with_accuracy),
    ],
)
def test_look_alikes_are_left_alone(make: Make, after: Callable[[Any, int], None]) -> None:
    assert RULE not in rules(functools.partial(epochs, make, after))


def test_three_evaluations_are_too_few_for_a_direction() -> None:
    assert RULE not in rules(functools.partial(epochs, schedules.ReduceLROnPlateau, steps_with_accuracy, count=3))
