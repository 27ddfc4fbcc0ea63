"""iterable-duplicated: found where it is, silent on what looks like it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, get_worker_info

from loopkit import Confidence, Severity
from tests.loops import adamw, loss_of, model
from tests.watched import find, line_of, rules

RULE = "iterable-duplicated"
DATA = TensorDataset(torch.randn(24, 4), torch.randn(24, 2))


class Stream(IterableDataset[Any]):
    """Deals all of some samples, or a share in each worker."""

    def __init__(self, samples: Any = DATA, *, shared: bool = False, endless: bool = False) -> None:
        self.samples, self.shared, self.endless = samples, shared, endless

    def __iter__(self) -> Iterator[Any]:
        stream = (self.samples[n % len(self.samples)] for n in range(10**9 if self.endless else len(self.samples)))
        info = get_worker_info()
        return itertools.islice(stream, info.id, None, info.num_workers) if self.shared and info else stream


class Random(IterableDataset[Any]):
    """Makes samples up."""

    def __iter__(self) -> Iterator[Any]:
        for _ in range(24):
            yield torch.randn(4), torch.randn(2)


def train(loader: Any, steps: int = 1000) -> None:
    net = model()
    optimizer = adamw(net)
    for x, y in itertools.islice(loader, steps):
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()


def loads(dataset: Any, workers: int = 2) -> DataLoader[Any]:
    context = "fork" if workers else None
    return DataLoader(dataset, batch_size=4, num_workers=workers, multiprocessing_context=context)


def whole_in_each() -> None:
    train(loads(Stream()))


SNAPSHOTS = {RULE: whole_in_each}


def test_found_at_the_loop_over_the_loader() -> None:
    (finding,) = find(whole_in_each)
    assert (finding.rule, finding.severity, finding.confidence) == (RULE, Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(train, "in itertools.islice")
    assert finding.evidence == {"workers": 2}


def test_a_stream_without_an_end() -> None:
    assert rules(lambda: train(loads(Stream(endless=True)), steps=6)) == [RULE]


@pytest.mark.parametrize(
    "make",
    [
        lambda: loads(Stream(shared=True)),
        lambda: loads(Stream(), workers=1),
        lambda: loads(Stream(), workers=0),
        lambda: loads(Random()),
        lambda: loads(Stream([(torch.ones(4), torch.ones(2))] * 24)),
        lambda: loads(DATA),
    ],
)
def test_look_alikes_are_left_alone(make: Callable[[], DataLoader[Any]]) -> None:
    assert RULE not in rules(lambda: train(make()))
