"""train-eval-overlap: found where it is, silent on what looks like it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, SubsetRandomSampler, TensorDataset

from loopkit import Confidence, Severity
from tests.loops import adamw, loss_of, model
from tests.watched import find, line_of, rules

RULE = "train-eval-overlap"
X, Y = torch.randn(40, 4), torch.randn(40, 2)
DATA = TensorDataset(X, Y)


def evaluate(net: nn.Module, loader: DataLoader[Any]) -> None:
    with torch.no_grad():
        for x, _ in loader:
            net(x)


def train(data: Any, *others: Any, epochs: int = 2, **options: Any) -> None:
    net = model()
    optimizer = adamw(net)
    loaders = [each if isinstance(each, DataLoader) else DataLoader(each, batch_size=4) for each in others]
    batches = data if isinstance(data, DataLoader) else DataLoader(data, batch_size=4, shuffle=True, **options)
    for _ in range(epochs):
        for x, y in batches:
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()
        for loader in loaders:
            evaluate(net, loader)


def part(*bounds: int) -> Subset[Any]:
    return Subset(DATA, range(*bounds))


def overlapping() -> None:
    train(part(0, 32), part(28, 40))


SNAPSHOTS = {RULE: overlapping}


def test_found_at_the_evaluation() -> None:
    (finding,) = find(overlapping)
    assert (finding.rule, finding.severity, finding.confidence) == (RULE, Severity.ERROR, Confidence.FACT)
    assert finding.place is not None
    assert finding.place.line == line_of(evaluate, "for x, _ in loader")
    assert finding.places["trained"].line == line_of(train, "for x, y in batches")
    assert finding.evidence == {"shared": 4, "evaluated": 12}


def of(indices: Sequence[int]) -> DataLoader[Any]:
    return DataLoader(DATA, batch_size=4, sampler=SubsetRandomSampler(indices))


class Other(Dataset[Any]):
    """Not a tensor dataset."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Any:
        return X[index], Y[index]


OTHER = Other()


@pytest.mark.parametrize(
    "loop",
    [
        lambda: train(TensorDataset(X[:32], Y[:32]), TensorDataset(X[30:], Y[30:])),
        lambda: train(of(range(32)), of(range(30, 40))),
        lambda: train(Subset(OTHER, range(32)), Subset(Subset(OTHER, range(20, 40)), range(20))),
    ],
)
def test_in_other_forms(loop: Callable[[], None]) -> None:
    (finding,) = find(loop)
    assert (finding.rule, finding.severity) == (RULE, Severity.ERROR)


def test_a_part_of_the_training_data_is_less() -> None:
    (finding,) = find(lambda: train(DATA, part(30, 40)))
    assert (finding.rule, finding.severity) == (RULE, Severity.WARNING)


def folds() -> None:
    for n in range(4):
        held_out = range(10 * n, 10 * n + 10)
        rest = [index for index in range(40) if index not in held_out]
        net = model()
        optimizer = adamw(net)
        evaluate(net, DataLoader(Subset(DATA, held_out), batch_size=4))
        for x, y in DataLoader(Subset(DATA, rest), batch_size=4):
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()
        evaluate(net, DataLoader(Subset(DATA, held_out), batch_size=4))


class Stream(IterableDataset[Any]):
    """Has no indices."""

    def __iter__(self) -> Iterator[Any]:
        return iter(DATA)


@pytest.mark.parametrize(
    "loop",
    [
        lambda: train(part(0, 30), part(30, 40)),
        lambda: train(TensorDataset(X[:32], Y[:32]), TensorDataset(X[32:], Y[32:])),
        lambda: train(TensorDataset(X[:32], Y[:32]), TensorDataset(X[30:].clone(), Y[30:])),
        lambda: train(DATA, DATA),
        lambda: train(part(0, 30), part(0, 10), part(30, 40)),
        lambda: train(of(range(30)), of(range(30, 40))),
        lambda: train(DataLoader(Stream(), batch_size=4), Stream()),
        lambda: train(
            TensorDataset(torch.arange(100.0).unfold(0, 4, 1)[:60], torch.randn(60, 2)),
            TensorDataset(torch.arange(100.0).unfold(0, 4, 1)[60:], torch.randn(37, 2)),
        ),
        folds,
    ],
)
def test_look_alikes_are_left_alone(loop: Callable[[], None]) -> None:
    assert RULE not in rules(loop)


def test_a_loader_that_is_gone_is_passed_over() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for _ in range(2):
            for x, y in DataLoader(part(0, 32), batch_size=4, shuffle=True):
                optimizer.zero_grad()
                loss_of(net(x), y).backward()
                optimizer.step()
            with torch.no_grad():
                for x, _ in DataLoader(part(32, 40), batch_size=4):
                    net(x)

    assert not find(loop)
