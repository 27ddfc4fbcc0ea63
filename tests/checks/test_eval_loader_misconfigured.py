"""eval-loader-misconfigured: found where it is, silent on what looks like it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from loopkit import Confidence, Severity
from tests.loops import adamw, loader, loss_of, model
from tests.watched import find, line_of, rules

RULE = "eval-loader-misconfigured"


def held_out(samples: int, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.randn(samples, 4), torch.randn(samples, 2)), batch_size=8, **options)


def evaluate(net: nn.Module, batches: DataLoader[Any]) -> None:
    with torch.no_grad():
        for x, _ in batches:
            net(x)


def train(*tests: DataLoader[Any], batches: DataLoader[Any] | None = None) -> None:
    net = model()
    optimizer = adamw(net)
    batches = batches or loader()
    for _ in range(2):
        for x, y in batches:
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()
        for test in tests:
            evaluate(net, test)


def drops() -> None:
    train(held_out(20, drop_last=True))


class RandomShift:
    """An augmentation."""

    def __call__(self, x: Tensor) -> Tensor:
        return x + torch.randn(4)


class Compose:
    """Several transforms."""

    def __init__(self, *transforms: Callable[[Tensor], Tensor]) -> None:
        self.transforms = list(transforms)


class Images(Dataset[Any]):
    """Transforms its samples."""

    def __init__(self, *transforms: Callable[[Tensor], Tensor]) -> None:
        self.transform = Compose(*transforms)

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> Any:
        x = torch.ones(4)
        for each in self.transform.transforms:
            x = each(x)
        return x, torch.ones(2)


def augments() -> None:
    images = Images(torch.tanh, RandomShift())
    parts = Subset(images, range(16)), Subset(images, range(16, 32))
    train(DataLoader(parts[1], batch_size=4), batches=DataLoader(parts[0], batch_size=4))


SNAPSHOTS = {RULE: drops, f"{RULE}-random": augments}


@pytest.mark.parametrize("loop", [drops, augments])
def test_found_at_the_evaluation(loop: Callable[[], None]) -> None:
    (finding,) = find(loop)
    assert (finding.rule, finding.severity, finding.confidence) == (RULE, Severity.WARNING, Confidence.FACT)
    assert finding.place is not None
    assert finding.place.line == line_of(evaluate, "for x, _ in batches")


def test_a_few_samples_are_only_mentioned() -> None:
    (finding,) = find(lambda: train(held_out(202, drop_last=True)))
    assert (finding.severity, finding.evidence) == (Severity.INFO, {"left_out": 2, "samples": 202})


def test_the_training_loader_is_left_alone() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        batches = held_out(20, drop_last=True)
        evaluate(net, batches)
        for x, y in batches:
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()
        evaluate(net, batches)

    assert RULE not in rules(loop)


@pytest.mark.parametrize(
    "loop",
    [
        lambda: train(held_out(20)),
        lambda: train(held_out(24, drop_last=True)),
        lambda: train(held_out(24, shuffle=True)),
        lambda: train(DataLoader(Images(torch.tanh), batch_size=4)),
        lambda: train(DataLoader(Images(RandomShift()), batch_size=4)),  # test-time augmentation of its own dataset
        lambda: evaluate(model(), held_out(20, drop_last=True)),
    ],
)
def test_look_alikes_are_left_alone(loop: Callable[[], None]) -> None:
    assert RULE not in rules(loop)
