"""loader-empty: found where it is, silent on what looks like it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from loopkit import Confidence, Severity
from tests.loops import adamw, loader, loss_of, model
from tests.watched import find, line_of, rules

RULE = "loader-empty"


def data(samples: int) -> TensorDataset:
    return TensorDataset(torch.randn(samples, 4), torch.randn(samples, 2))


def train(batches: DataLoader[Any], epochs: int = 3) -> None:
    net = model()
    optimizer = adamw(net)
    for _ in range(epochs):
        for x, y in batches:
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()


def all_dropped() -> None:
    train(DataLoader(data(10), batch_size=16, shuffle=True, drop_last=True))


SNAPSHOTS = {RULE: all_dropped}


def test_found_at_the_loop_over_it() -> None:
    (finding,) = find(all_dropped)
    assert (finding.rule, finding.severity, finding.confidence) == (RULE, Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(train, "for x, y in batches")
    assert finding.evidence == {"passes": 3, "samples": 10, "batch_size": 16}
    assert "drops all of its 10 samples" in finding.seen


def test_an_empty_dataset_that_should_have_trained() -> None:
    (finding,) = find(lambda: train(DataLoader(data(0), batch_size=16)))
    assert (finding.rule, finding.severity) == (RULE, Severity.ERROR)
    assert "no samples" in finding.seen


@pytest.mark.parametrize(
    ("batches", "severity"),
    [
        (DataLoader(data(10), batch_size=16, drop_last=True), Severity.WARNING),
        (DataLoader(data(0), batch_size=16), Severity.INFO),
    ],
)
def test_beside_one_that_trains_it_does_less_harm(batches: DataLoader[Any], severity: Severity) -> None:
    def loop() -> None:
        train(loader())
        for _ in batches:
            raise AssertionError

    (finding,) = find(loop)
    assert (finding.rule, finding.severity) == (RULE, severity)


def test_loaders_with_a_batch_are_left_alone() -> None:
    assert RULE not in rules(lambda: train(DataLoader(data(18), batch_size=16, drop_last=True)))
    assert RULE not in rules(lambda: train(DataLoader(data(10), batch_size=16)))


def test_an_iterator_that_is_used_up_is_left_to_its_own_rule() -> None:
    def loop() -> None:
        stream: Any = iter(loader())
        train(stream)

    assert rules(loop) == ["loader-exhausted"]


def test_a_loader_nobody_asks_is_left_alone() -> None:
    assert rules(lambda: bool(DataLoader(data(10), batch_size=16, drop_last=True))) == []
