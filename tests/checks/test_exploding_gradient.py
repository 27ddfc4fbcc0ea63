"""exploding-gradient: growth that stays, and none that recovers or is clipped."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from loopkit import Confidence, Severity
from tests.loops import batches
from tests.watched import find, line_of, rules

RULE = "exploding-gradient"


def train(lr: float, steps: int = 64, clip: float = 0.0, spike: bool = False) -> None:
    net = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    for i, (x, y) in enumerate(batches(steps)):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(net(x), y) * (1e4 if spike and i == steps - 1 else 1.0)
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(net.parameters(), clip)
        optimizer.step()


def runs_away() -> None:
    train(lr=1.7)


SNAPSHOTS = {RULE: runs_away}


def test_found_where_gradients_and_weights_grow() -> None:
    (found,) = find(runs_away)
    assert (found.rule, found.severity, found.confidence) == (RULE, Severity.WARNING, Confidence.HEURISTIC)
    assert found.place is not None
    assert found.place.line == line_of(train, "optimizer.step()")
    assert found.evidence["steps"] == [1, 2, 3, 4, 8, 16, 32, 64]


def test_only_told_where_the_weights_do_not_grow() -> None:
    def loop() -> None:
        net = nn.Linear(4, 2)
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        for i, (x, y) in enumerate(batches(64)):
            optimizer.zero_grad()
            (nn.functional.mse_loss(net(x), y) * (1e5 if i >= 20 else 1.0)).backward()
            optimizer.step()

    (found,) = find(loop)
    assert (found.rule, found.severity) == (RULE, Severity.INFO)


# -- what looks like it ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("lr", "clip", "spike"), [(0.1, 0.0, False), (1.7, 1.0, False), (0.1, 0.0, True)])
def test_silent_on_learning_on_clipping_and_on_a_spike(lr: float, clip: float, spike: bool) -> None:
    assert RULE not in rules(lambda: train(lr, clip=clip, spike=spike))


def test_silent_on_the_first_steps() -> None:
    assert RULE not in rules(lambda: train(1.7, steps=6))


def test_an_error_explains_it() -> None:
    assert RULE not in rules(lambda: train(30.0, steps=300))
