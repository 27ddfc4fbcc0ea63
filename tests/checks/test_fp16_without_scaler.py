"""fp16-without-scaler: a warning where small gradients were measured, else only told."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from loopkit import Confidence, Severity
from tests.amp import half, scaled
from tests.loops import batches, model
from tests.watched import find, line_of, rules

RULE = "fp16-without-scaler"


def train(factor: float = 1.0, dtype: torch.dtype = torch.float16, size: float = 1.0) -> None:
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for x, y in batches():
        optimizer.zero_grad()
        loss = half(net, x * size, y, dtype) * factor
        loss.backward()
        optimizer.step()


def small_gradients() -> None:
    train(size=1e-3)


SNAPSHOTS = {RULE: small_gradients}


def test_a_warning_where_gradients_are_coarse() -> None:
    (found,) = find(small_gradients)
    assert (found.rule, found.severity, found.confidence) == (RULE, Severity.WARNING, Confidence.FACT)
    assert found.place is not None
    assert found.place.line == line_of(train, "loss.backward()")
    assert found.evidence["casts"] == 4
    assert 0 < found.evidence["coarse"] <= found.evidence["gradients"]


def test_only_told_where_none_was_seen() -> None:
    (found,) = find(train)
    assert (found.rule, found.severity) == (RULE, Severity.INFO)


# -- what looks like it ----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"dtype": torch.bfloat16}, {"factor": 128.0}])
def test_silent_on_bfloat16_and_on_a_scale_of_the_authors_own(options: dict[str, float]) -> None:
    assert RULE not in rules(lambda: train(size=1e-3, **options))  # type: ignore[arg-type]


def test_silent_with_a_scaler() -> None:
    def step(net: Any, optimizer: Any, scaler: Any) -> None:
        scaler.step(optimizer)
        scaler.update()

    assert rules(lambda: scaled(step)) == []


def test_silent_where_what_runs_in_float16_is_not_trained() -> None:
    def loop() -> None:
        body, head = model(), torch.nn.Linear(2, 2)
        optimizer = torch.optim.SGD(head.parameters(), lr=0.01)
        for x, y in batches():
            optimizer.zero_grad()
            with torch.no_grad(), torch.autocast("cpu", dtype=torch.float16):
                features = body(x)
            torch.nn.functional.mse_loss(head(features.float()), y).backward()
            optimizer.step()

    assert rules(loop) == []
