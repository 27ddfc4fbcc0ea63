"""train-not-shuffled: found where it is, silent on what looks like it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler, Subset, TensorDataset

from loopkit import Confidence, Severity
from tests.loops import adamw
from tests.watched import find, line_of, rules

RULE = "train-not-shuffled"


def labelled(labels: Tensor) -> TensorDataset:
    return TensorDataset(torch.randn(len(labels), 4) + labels[:, None], labels)


def train(batches: Any, criterion: nn.Module | None = None) -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4))
    optimizer = adamw(net)
    criterion = criterion or nn.CrossEntropyLoss()
    for _ in range(2):
        for x, y in batches:
            optimizer.zero_grad()
            criterion(net(x), y).backward()
            optimizer.step()


SORTED = torch.arange(160) // 40
MIXED = torch.arange(160) % 4


def sorted_by_class() -> None:
    train(DataLoader(labelled(SORTED), batch_size=10))


SNAPSHOTS = {RULE: sorted_by_class}


def test_found_at_the_loop_over_the_loader() -> None:
    (finding,) = find(sorted_by_class)
    assert (finding.rule, finding.severity, finding.confidence) == (RULE, Severity.WARNING, Confidence.FACT)
    assert finding.place is not None
    assert finding.place.line == line_of(train, "for x, y in batches")
    assert (finding.evidence["held"], finding.evidence["classes"]) == (1, 4)


def test_two_classes_one_after_the_other() -> None:
    assert rules(lambda: train(DataLoader(labelled(torch.arange(160) // 80), batch_size=10))) == [RULE]


class Stream(IterableDataset[Any]):
    """Sorted, and nobody can shuffle it."""

    def __iter__(self) -> Iterator[Any]:
        return iter(labelled(SORTED))


class Own(SequentialSampler):
    """An order of its own, which may be meant."""


@pytest.mark.parametrize(
    "loop",
    [
        lambda: train(DataLoader(labelled(SORTED), batch_size=10, shuffle=True)),
        lambda: train(DataLoader(labelled(MIXED), batch_size=10)),
        lambda: train(DataLoader(labelled(torch.zeros(160).long()), batch_size=10)),
        lambda: train(DataLoader(Stream(), batch_size=10)),
        lambda: train(DataLoader(labelled(SORTED), batch_size=10, sampler=Own(range(160)))),
        lambda: train(DataLoader(Subset(labelled(SORTED), torch.randperm(160).tolist()), batch_size=10)),
        lambda: train(DataLoader(labelled(SORTED), batch_size=4)),  # too few to tell
        lambda: train(list(DataLoader(labelled(SORTED), batch_size=10, shuffle=True))),
        lambda: train(DataLoader(labelled((torch.arange(160) > 150).long()), batch_size=10)),  # a rare class
    ],
)
def test_look_alikes_are_left_alone(loop: Callable[[], None]) -> None:
    assert RULE not in rules(loop)


def test_losses_of_another_kind_are_left_alone() -> None:
    data = TensorDataset(torch.randn(160, 4), nn.functional.one_hot(SORTED).float())
    assert RULE not in rules(lambda: train(DataLoader(data, batch_size=10), nn.MSELoss()))
