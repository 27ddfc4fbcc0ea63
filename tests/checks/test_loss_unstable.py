"""loss-unstable: found where it is, silent on what looks like it."""

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

RULE = "loss-unstable"


def logs(loss: Callable[[int], float], rate: Callable[[int], float] = lambda n: 0.1, updates: int = 100) -> None:
    """A correct loop that logs made losses, functions of the step."""
    net = model()
    optimizer = adamw(net)
    for n in range(updates):
        (x, y), *_ = batches(1)
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()
        loopkit.log("train/lr", rate(n))
        loopkit.log("train/loss", loss(n))


def falls(n: int) -> float:
    return 0.1 + 2.2 * math.exp(-n / 20)


def runs_away(n: int) -> float:
    return falls(n) if n < 60 else falls(60) * 1.1 ** (n - 60)


def jumps(n: int) -> float:
    return 1.0 + 0.5 * random.Random(n).uniform(-1, 1)


SNAPSHOTS = {
    RULE: functools.partial(logs, runs_away),
    f"{RULE}-nan": functools.partial(logs, lambda n: falls(n) if n < 60 else math.nan),
    f"{RULE}-jumps": functools.partial(logs, jumps, updates=40),
}


def test_a_loss_that_runs_away_is_named_with_its_step() -> None:
    (finding,) = find(SNAPSHOTS[RULE])
    assert (finding.rule, finding.severity, finding.confidence) == (RULE, Severity.WARNING, Confidence.HEURISTIC)
    assert finding.step is not None
    assert 55 <= finding.step <= 65


def test_a_loss_that_ends_in_nan_is_named_with_its_step() -> None:
    (finding,) = find(SNAPSHOTS[f"{RULE}-nan"])
    assert (finding.rule, finding.severity, finding.step) == (RULE, Severity.WARNING, 61)


def test_jumps_are_only_said() -> None:
    (finding,) = find(SNAPSHOTS[f"{RULE}-jumps"])
    assert (finding.rule, finding.severity) == (RULE, Severity.INFO)


@pytest.mark.parametrize(
    "loss",
    [
        falls,
        lambda n: math.nan if n == 50 else falls(n),  # one that recovers
        lambda n: falls(n) + (3.0 if n in (40, 70) else 0.0),  # spikes that recover
        lambda n: falls(n) * math.exp(random.Random(n).gauss(0, 0.1)),
        lambda n: -5 + falls(n),  # a log-density
    ],
)
def test_look_alikes_are_left_alone(loss: Callable[[int], float]) -> None:
    assert find(functools.partial(logs, loss)) == []


def test_a_warm_restart_is_left_alone() -> None:
    def rate(n: int) -> float:
        return 0.1 * (1 - n % 80 / 80)

    def loss(n: int) -> float:
        return falls(n) if n < 80 else 1.8

    assert find(functools.partial(logs, loss, rate)) == []
    assert len(find(functools.partial(logs, loss))) == 1, "without the learning rate it is a loss that runs away"


def test_one_training_after_another_is_no_loss_that_comes_back() -> None:
    def loop() -> None:
        logs(falls)
        logs(lambda n: 1.2 + 2.0 * math.exp(-n / 5) + 0.01 * math.sin(n * n), updates=150)

    assert not find(loop)
