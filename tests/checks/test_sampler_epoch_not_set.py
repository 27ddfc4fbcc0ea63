"""sampler-epoch-not-set: found where it is, silent on what looks like it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, TensorDataset

from loopkit import Confidence, Severity
from tests.loops import adamw, loss_of, model
from tests.watched import find, line_of, rules

RULE = "sampler-epoch-not-set"
DATA = TensorDataset(torch.randn(16, 4), torch.randn(16, 2))


def sampler(**options: Any) -> DistributedSampler[Any]:
    return DistributedSampler(DATA, num_replicas=2, rank=0, **options)


def train(
    deal: DistributedSampler[Any], before: Callable[[int], object] = lambda epoch: None, epochs: int = 2
) -> None:
    net = model()
    optimizer = adamw(net)
    batches = DataLoader(DATA, batch_size=4, sampler=deal)
    for epoch in range(epochs):
        before(epoch)
        for x, y in batches:
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()


def never_told() -> None:
    train(sampler())


SNAPSHOTS = {RULE: never_told}


def test_found_at_the_second_pass() -> None:
    (finding,) = find(never_told)
    assert (finding.rule, finding.severity, finding.confidence) == (RULE, Severity.WARNING, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(train, "for x, y in batches")
    assert (finding.evidence["pass"], finding.step) == (2, 4)


def test_in_every_epoch_it_is_one_finding() -> None:
    (finding,) = find(lambda: train(sampler(), epochs=4))
    assert finding.count == 3


def test_a_last_pass_that_is_left_early() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        batches = DataLoader(DATA, batch_sampler=BatchSampler(sampler(), 2, drop_last=True))
        for _ in range(2):
            for n, (x, y) in enumerate(batches):
                optimizer.zero_grad()
                loss_of(net(x), y).backward()
                optimizer.step()
                if n == 1:
                    break

    assert rules(loop) == [RULE]


def test_also_where_only_the_first_epochs_are_told() -> None:
    deal = sampler()
    assert rules(lambda: train(deal, lambda epoch: deal.set_epoch(min(epoch, 1)), epochs=3)) == [RULE]


class Own(DistributedSampler[Any]):
    """Deals an order of its own."""

    def __iter__(self) -> Iterator[Any]:
        return iter(torch.randperm(16).tolist())


def told() -> None:
    deal = sampler()
    train(deal, deal.set_epoch, epochs=3)


def one_epoch() -> None:
    train(sampler(), epochs=1)


def peeks() -> None:
    deal = sampler()
    next(iter(DataLoader(DATA, batch_size=4, sampler=deal)))
    train(deal, deal.set_epoch, epochs=1)


def two_trainings() -> None:
    deal = sampler()
    batches = DataLoader(DATA, batch_size=4, sampler=deal)
    for _ in range(2):
        net = model()
        optimizer = adamw(net)
        for x, y in batches:
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()


def evaluates() -> None:
    net = model()
    batches = DataLoader(DATA, batch_size=4, sampler=sampler())
    with torch.no_grad():
        for _ in range(3):
            for x, _ in batches:
                net(x)
    train(sampler(), epochs=1)


@pytest.mark.parametrize(
    "loop",
    [
        told,
        one_epoch,
        peeks,
        two_trainings,
        evaluates,
        lambda: train(sampler(shuffle=False), epochs=3),
        lambda: train(Own(DATA, num_replicas=2, rank=0), epochs=3),
    ],
)
def test_look_alikes_are_left_alone(loop: Callable[[], None]) -> None:
    assert RULE not in rules(loop)
