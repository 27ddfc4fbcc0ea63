"""loss-not-decreasing: found where it is, silent on what looks like it."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable

import pytest

import loopkit
from loopkit import Confidence, Severity
from tests.loops import adamw, batches, loss_of, model
from tests.watched import find

RULE = "loss-not-decreasing"


def logs(loss: Callable[[int], float], updates: int = 240) -> None:
    """A correct loop that logs made losses, functions of the step."""
    net = model()
    optimizer = adamw(net)
    for n in range(updates):
        (x, y), *_ = batches(1)
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()
        loopkit.log("train/loss", loss(n))


def noisy(n: int) -> float:
    return random.Random(n).gauss(0, 0.05)


def flat(n: int) -> float:
    return 2.3 + noisy(n)


SNAPSHOTS = {RULE: functools.partial(logs, flat), f"{RULE}-same": functools.partial(logs, lambda n: 2.25)}


def test_a_flat_loss_is_named() -> None:
    (finding,) = find(SNAPSHOTS[RULE])
    assert (finding.rule, finding.severity, finding.confidence) == (RULE, Severity.WARNING, Confidence.HEURISTIC)


def test_one_number_again_and_again_is_named() -> None:
    (finding,) = find(SNAPSHOTS[f"{RULE}-same"])
    assert (finding.severity, finding.evidence["repeats"]) == (Severity.WARNING, 240)


def test_also_where_it_begins_late() -> None:
    (finding,) = find(functools.partial(logs, lambda n: 0.1 + math.exp(-min(n, 150) / 20)))
    assert (finding.step, finding.evidence["repeats"]) == (151, 90)


@pytest.mark.parametrize(
    ("loss", "updates"),
    [
        (flat, 40),  # a trial
        (lambda n: 2.25, 40),
        (lambda n: (1.9 + 0.4 * math.exp(-n / 10)) * math.exp(noisy(n)), 240),  # it fell a little
    ],
)
def test_what_may_be_well_is_only_said(loss: Callable[[int], float], updates: int) -> None:
    (finding,) = find(functools.partial(logs, loss, updates))
    assert (finding.rule, finding.severity) == (RULE, Severity.INFO)


@pytest.mark.parametrize(
    ("loss", "updates"),
    [
        (flat, 5),
        (lambda n: 2.3 * math.exp(-n / 60) + 0.3 + noisy(n), 240),
        (lambda n: 2.3 - n / 200 + noisy(n), 240),  # slow, and under way
        (lambda n: noisy(n), 240),  # of games
    ],
)
def test_look_alikes_are_left_alone(loss: Callable[[int], float], updates: int) -> None:
    assert RULE not in [finding.rule for finding in find(functools.partial(logs, loss, updates))]


def test_what_is_not_the_training_loss_is_left_alone() -> None:
    def loop() -> None:
        for n in range(240):
            loopkit.log("loss/generator", flat(n), step=n)

    assert find(loop) == []
