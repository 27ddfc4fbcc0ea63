"""dataset-barely-sampled: found where it is, silent on what looks like it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler

from loopkit import Confidence, Severity
from tests.loops import adamw, loader, loss_of, model
from tests.watched import find, line_of, rules

RULE = "dataset-barely-sampled"
DATA = TensorDataset(torch.randn(16, 4), torch.randn(16, 2))


def train(batches: Any) -> None:
    net = model()
    optimizer = adamw(net)
    for x, y in batches:
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()


def firsts(batches: DataLoader[Any], steps: int = 12) -> Iterator[Any]:
    for _ in range(steps):
        yield next(iter(batches))


def always_the_first() -> None:
    train(firsts(loader()))


def weight_per_class() -> None:
    train(DataLoader(DATA, batch_size=4, sampler=WeightedRandomSampler([0.5, 0.5], 16)))


SNAPSHOTS = {RULE: always_the_first, f"{RULE}-weights": weight_per_class}


def test_an_iterator_for_each_batch() -> None:
    (finding,) = find(always_the_first)
    assert (finding.rule, finding.severity, finding.confidence) == (RULE, Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(firsts, "next(iter(batches))")
    assert finding.evidence["length"] == 4


def test_where_the_loader_shuffles_it_is_only_said() -> None:
    (finding,) = find(lambda: train(firsts(DataLoader(DATA, batch_size=4, shuffle=True))))
    assert (finding.rule, finding.severity) == (RULE, Severity.INFO)


def test_a_weight_for_each_class() -> None:
    (finding,) = find(weight_per_class)
    assert (finding.rule, finding.severity) == (RULE, Severity.ERROR)
    assert finding.evidence == {"weights": 2, "samples": 16}


class MadeUp(Dataset[Any]):
    """Another sample each time."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> Any:
        return torch.randn(4), torch.randn(2)


class Endless(IterableDataset[Any]):
    """Random samples for ever."""

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield torch.randn(4), torch.randn(2)


def one_batch_by_heart() -> None:
    batch = next(iter(loader()))
    train(batch for _ in range(20))


def several_trainings() -> None:
    batches = loader()
    for _ in range(12):
        train([next(iter(batches))])


def restarts() -> Iterator[Any]:
    batches = loader()
    stream = iter(batches)
    for _ in range(50):
        try:
            yield next(stream)
        except StopIteration:
            stream = iter(batches)
            yield next(stream)


@pytest.mark.parametrize(
    "loop",
    [
        one_batch_by_heart,
        several_trainings,
        lambda: train(restarts()),
        lambda: train(firsts(loader(), steps=5)),
        lambda: train(firsts(loader(samples=4))),  # a loader of one batch
        lambda: train(firsts(DataLoader(Endless(), batch_size=4))),
        lambda: train(DataLoader(DATA, batch_size=4, sampler=WeightedRandomSampler([1.0] * 16, 16))),
    ],
)
def test_look_alikes_are_left_alone(loop: Callable[[], None]) -> None:
    assert RULE not in rules(loop)


def test_a_dataset_that_makes_samples_up_is_only_mentioned() -> None:
    (finding,) = find(lambda: train(firsts(DataLoader(MadeUp(), batch_size=4))))
    assert finding.severity is Severity.INFO
