"""lr-lambda-absolute: found where it is, silent on what looks like it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import SGD, lr_scheduler

from loopkit import Confidence, Finding, Severity
from tests.loops import loader, loss_of, model
from tests.watched import find, line_of, rules

RULE = "lr-lambda-absolute"
RATE = 3e-3
ARGS = SimpleNamespace(lr=3e-3, epochs=4)


def loop(function: Callable[[int], float], rate: float = RATE, steps: int = 40) -> None:
    net = model()
    optimizer = SGD(net.parameters(), lr=rate)
    scheduler = lr_scheduler.LambdaLR(optimizer, function)
    for x, y in loader(samples=4 * steps):
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()
        scheduler.step()


def cosine(step: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * step / 40))


def absolute(step: int) -> float:
    return RATE * cosine(step)


def warmed_up(step: int) -> float:
    rate: float = ARGS.lr
    return rate * min((step + 1) / 6, 1 - step / 60)


class Decay:
    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, step: int) -> float:
        return self.rate * 0.95**step


SNAPSHOTS = {RULE: functools.partial(loop, absolute)}


def one(function: Callable[[], None]) -> Finding:
    (finding,) = find(function, select=[RULE])
    return finding


def test_found_where_the_scheduler_is_made() -> None:
    finding = one(SNAPSHOTS[RULE])
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.HEURISTIC)
    assert finding.place is not None
    assert finding.place.line == line_of(loop, "LambdaLR")
    assert finding.evidence["knows_base_rate"]


@pytest.mark.parametrize(
    "function", [absolute, warmed_up, Decay(RATE), lambda step: 0.003 * 0.9**step, lambda step: absolute(step) * 0.99]
)
def test_found_with(function: Callable[[int], float]) -> None:
    assert one(functools.partial(loop, function)).severity is Severity.WARNING


@pytest.mark.parametrize(
    ("function", "rate"),
    [
        (cosine, RATE),
        (lambda step: max(RATE, cosine(step)), RATE),
        (lambda step: absolute(step) / RATE, RATE),
        (absolute, 1.0),
        (lambda step: 0.1**step, 0.1),
        (lambda step: min(1.0, (step + 1) / 400), 0.1),  # ends inside its warm-up, at 0.1
        (lambda step: min(1.0, 0.003 + step / 300), RATE),
        (lambda step: 0.5, 0.5),
    ],
)
def test_look_alikes_are_left_alone(function: Callable[[int], float], rate: float) -> None:
    assert RULE not in rules(functools.partial(loop, function, rate))


def test_a_run_of_a_few_updates_is_not_judged() -> None:
    assert RULE not in rules(functools.partial(loop, absolute, steps=6))


@settings(max_examples=15)
@given(st.floats(1e-6, 0.3), st.integers(1, 30))
def test_a_factor_that_comes_near_1_is_never_named(rate: float, warmup: int) -> None:
    assert RULE not in rules(functools.partial(loop, lambda step: min(1.0, (step + 1) / warmup), rate))
