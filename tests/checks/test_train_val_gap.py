"""train-val-gap: found where it is, silent on what looks like it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import pytest
import torch

import loopkit
from loopkit import Confidence, Severity
from tests.loops import adamw, batches, loss_of, model
from tests.watched import find, line_of

RULE = "train-val-gap"


def logs(
    train: Callable[[float], float], val: Callable[[float], float], epochs: int = 12, tensors: bool = False
) -> None:
    """A correct loop of `epochs` epochs that logs made losses: functions of the share of the run that is over."""
    net = model()
    optimizer = adamw(net)
    for epoch in range(epochs):
        for x, y in batches(2):
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()
        at = epoch / (epochs - 1)
        wrap = torch.tensor if tensors else float
        loopkit.log("train/loss", wrap(train(at)))
        loopkit.log("val/loss", wrap(val(at)))


def falls(at: float) -> float:
    return 0.02 + 2.3 * math.exp(-4 * at)


def turns(at: float, up: float = 1.5) -> float:
    return 0.8 + 1.5 * max(0.0, 0.3 - at) / 0.3 + up * max(0.0, at - 0.3)


overfits = functools.partial(logs, falls, turns)
SNAPSHOTS = {RULE: overfits, f"{RULE}-low": functools.partial(logs, falls, lambda at: 0.05 * falls(at))}


@pytest.mark.parametrize("tensors", [False, True])
def test_overfitting_is_named_since_its_epoch_at_the_line_that_logs(tensors: bool) -> None:
    (finding,) = find(functools.partial(overfits, tensors=tensors))
    assert (finding.rule, finding.severity, finding.confidence) == (RULE, Severity.WARNING, Confidence.HEURISTIC)
    assert finding.place is not None
    assert finding.place.line == line_of(logs, '"val/loss"')
    # The minimum lies between the 4th and the 5th of twelve epochs, of two steps each.
    assert finding.step in (8, 10)
    assert finding.evidence["best"] == pytest.approx(0.8, abs=0.2)


def test_a_small_rise_is_only_said() -> None:
    (finding,) = find(functools.partial(logs, falls, functools.partial(turns, up=0.4)))
    assert finding.severity is Severity.INFO


def test_validation_that_is_too_low_is_only_said() -> None:
    (finding,) = find(SNAPSHOTS[f"{RULE}-low"])
    assert (finding.rule, finding.severity) == (RULE, Severity.INFO)
    assert finding.evidence["ratio"] == pytest.approx(0.06, abs=0.02)


@pytest.mark.parametrize(
    ("train", "val", "epochs"),
    [
        (falls, falls, 12),
        (falls, lambda at: 0.5 * falls(at), 12),  # dropout and augmentation make training's the higher one
        (falls, lambda at: 0.6 + falls(at), 12),  # a gap that does not grow
        (falls, turns, 4),  # too short
        (lambda at: 2.3 + at, turns, 12),  # training does not fall
        (falls, lambda at: falls(at) * (1.02 if round(at * 11) % 2 else 0.98), 12),
    ],
)
def test_look_alikes_are_left_alone(
    train: Callable[[float], float], val: Callable[[float], float], epochs: int
) -> None:
    assert RULE not in [finding.rule for finding in find(functools.partial(logs, train, val, epochs))]


def test_without_the_training_loss_nothing_is_said() -> None:
    def loop() -> None:
        for n in range(12):
            loopkit.log("val/loss", turns(n / 11), step=n)

    assert find(loop) == []


def test_an_error_explains_it() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for n in range(12):
            for x, y in batches(2):
                loss_of(net(x), y).backward()
                optimizer.step()
            loopkit.log("train/loss", falls(n / 11))
            loopkit.log("val/loss", turns(n / 11))

    assert [finding.rule for finding in find(loop)] == ["missing-zero-grad"]


def test_it_can_be_silenced_on_the_line_that_logs() -> None:
    def loop() -> None:
        for n in range(12):
            loopkit.log("train/loss", falls(n / 11), step=n)
            loopkit.log("val/loss", turns(n / 11), step=n)  # loopkit: ignore[train-val-gap] a demonstration

    assert find(loop) == []


def learns(rate: float, validation: Callable[[float], float] = turns) -> None:
    """Logs validation alone, while a real loss falls, or with a rate of 0 does not."""
    net = model()
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    data = list(batches(2))
    for epoch in range(12):
        for x, y in data:
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()
        loopkit.log("val/loss", validation(epoch / 11))


def test_a_training_loss_that_is_not_logged_is_sampled() -> None:
    (finding,) = find(functools.partial(learns, 0.1))
    assert (finding.rule, finding.severity) == (RULE, Severity.WARNING)
    assert finding.evidence["training_last"] < finding.evidence["training_then"]


@pytest.mark.parametrize(("rate", "validation"), [(0.0, turns), (0.1, falls)])
def test_where_only_one_of_both_moves_nothing_is_said(rate: float, validation: Callable[[float], float]) -> None:
    assert RULE not in [finding.rule for finding in find(functools.partial(learns, rate, validation))]
