"""run-length-mismatch: found where it is, silent on what looks like it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from loopkit import Confidence, Severity
from tests.loops import adamw, loader, loss_of, model
from tests.watched import find, line_of

RULE = "run-length-mismatch"


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """Deals some samples, and declares some."""

    def __init__(self, dealt: int, declared: int) -> None:
        self.dealt, self.declared = dealt, declared

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(self.dealt):
            features = torch.randn(4)
            yield features, features[:2]

    def __len__(self) -> int:
        return self.declared


class Open(IterableDataset[tuple[Tensor, Tensor]]):
    """Declares nothing."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from Stream(40, 0)


class Rows(Dataset[tuple[Tensor, Tensor]]):
    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        features = torch.randn(4)
        return features, features[:2]

    def __len__(self) -> int:
        return 40


class Buckets(Sampler[list[int]]):
    """Counts samples where batches are meant."""

    def __iter__(self) -> Iterator[list[int]]:
        for i in range(0, 40, 4):
            yield list(range(i, i + 4))

    def __len__(self) -> int:
        return 40


def train(data: Iterable[Any], epochs: int = 2, horizon: int = 0, cut: int | None = None) -> None:
    net = model()
    optimizer = adamw(net)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=horizon) if horizon else None
    for _ in range(epochs):
        for x, y in itertools.islice(data, cut):
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()
            if scheduler is not None:
                scheduler.step()


def _scheduled() -> None:
    train(DataLoader(Stream(40, 80), batch_size=4), horizon=40)


SNAPSHOTS = {RULE: _scheduled}


def test_a_schedule_for_what_was_declared_is_a_warning() -> None:
    (finding,) = find(_scheduled, select=[RULE])
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.FACT)
    assert finding.place is not None
    assert finding.place.line == line_of(train, "for x, y")
    assert (finding.evidence["declared"], finding.evidence["dealt"]) == (20, [10, 10])
    assert finding.evidence["horizon"] == 40


@pytest.mark.parametrize(
    ("dealt", "declared", "options"),
    [
        (40, 80, {"batch_size": 4}),
        (80, 40, {"batch_size": 4}),
        (40, 83, {"batch_size": 4, "drop_last": True}),
        (10, 20, {"batch_size": None}),
    ],
)
@pytest.mark.filterwarnings("ignore:Length of IterableDataset")
def test_a_length_that_is_wrong_is_a_fact(dealt: int, declared: int, options: dict[str, Any]) -> None:
    (finding,) = find(lambda: train(DataLoader(Stream(dealt, declared), **options)), select=[RULE])
    assert finding.severity is Severity.INFO
    assert set(finding.evidence["dealt"]) == {dealt // (options["batch_size"] or 1)}


def test_a_batch_sampler_that_counts_samples() -> None:
    (finding,) = find(lambda: train(DataLoader(Rows(), batch_sampler=Buckets())), select=[RULE])
    assert (finding.evidence["declared"], finding.evidence["dealt"]) == (40, [10, 10])


def test_a_schedule_of_the_real_length_leaves_the_fact() -> None:
    (finding,) = find(lambda: train(DataLoader(Stream(40, 80), batch_size=4), horizon=20), select=[RULE])
    assert finding.severity is Severity.INFO


def test_the_loader_is_not_asked_for_its_length() -> None:
    data = DataLoader(Stream(40, 80), batch_size=4)
    assert find(lambda: train(data), select=[RULE])
    assert getattr(data, "_IterableDataset_len_called", None) is None


def _evaluated() -> None:
    train(loader())
    net = model()
    with torch.no_grad():
        for x, _ in DataLoader(Stream(40, 80), batch_size=4):
            net(x)


LOOK_ALIKES: dict[str, Callable[[], object]] = {
    "a right length": lambda: train(DataLoader(Stream(40, 40), batch_size=4), horizon=20),
    "rows": lambda: train(loader(), horizon=8),
    "a last batch that is dropped": lambda: train(DataLoader(Rows(), batch_size=7, drop_last=True)),
    "a last batch that is short": lambda: train(DataLoader(Rows(), batch_size=7)),
    "one sample more": lambda: train(DataLoader(Stream(80, 79), batch_size=4)),
    "a twentieth less": lambda: train(DataLoader(Stream(76, 80), batch_size=4)),
    "passes that are broken off": lambda: train(DataLoader(Stream(40, 80), batch_size=4), cut=5),
    "no length": lambda: train(DataLoader(Open(), batch_size=4)),
    "evaluation": _evaluated,
    "a list": functools.partial(train, [(torch.ones(4, 4), torch.ones(4, 2))] * 4),
}


@pytest.mark.filterwarnings("ignore:Length of IterableDataset")
@pytest.mark.parametrize("name", sorted(LOOK_ALIKES))
def test_look_alikes_are_left_alone(name: str) -> None:
    assert find(LOOK_ALIKES[name], select=[RULE]) == []
