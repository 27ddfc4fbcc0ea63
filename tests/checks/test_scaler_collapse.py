"""scaler-collapse: a row of steps that a scaler leaves out, and no scale that merely settles."""

from __future__ import annotations

from collections.abc import Collection

import pytest
import torch

from loopkit import Confidence, Severity
from tests.amp import half
from tests.loops import batches, model
from tests.watched import find, line_of, rules

RULE = "scaler-collapse"


def train(steps: int, bad: Collection[int], init_scale: float = 64.0, backoff: float = 0.5) -> None:
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.001)
    scaler = torch.amp.GradScaler("cpu", init_scale=init_scale, backoff_factor=backoff)
    for i, (x, y) in enumerate(batches(steps)):
        optimizer.zero_grad()
        loss = half(net, x, y)
        scaler.scale(loss / 0 if i in bad else loss).backward()
        scaler.step(optimizer)
        scaler.update()


def collapses() -> None:
    train(30, range(3, 30))


SNAPSHOTS = {RULE: collapses}


def test_found_at_the_scalers_step() -> None:
    (found,) = [each for each in find(collapses) if each.rule == RULE]
    assert (found.severity, found.confidence) == (Severity.WARNING, Confidence.FACT)
    assert found.place is not None
    assert found.place.line == line_of(train, "scaler.step")
    assert found.evidence["skipped"] == 10
    assert found.evidence["scale"] < 1


def test_found_with_a_scale_that_falls_slowly() -> None:
    (found,) = [each for each in find(lambda: train(110, range(2, 110), 65536.0, 0.99)) if each.rule == RULE]
    assert found.evidence["skipped"] == 100


# -- what looks like it ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [range(9), range(0, 30, 3), range(5, 6)])
def test_silent_on_a_scale_that_settles_and_on_single_steps(bad: range) -> None:
    assert RULE not in rules(lambda: train(30, bad, 65536.0))


def test_a_row_ends_where_a_step_is_executed() -> None:
    def loop() -> None:
        train(30, [i for i in range(30) if i % 10 != 9])

    assert RULE not in rules(loop)
