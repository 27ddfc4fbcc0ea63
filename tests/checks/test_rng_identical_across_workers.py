"""rng-identical-across-workers: found where it is, silent on what looks like it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from loopkit import Confidence, Severity
from tests.loops import adamw, loss_of, model
from tests.watched import find, line_of, rules

RULE = "rng-identical-across-workers"


class Noisy(Dataset[Any]):
    """Adds noise from a generator of its own."""

    def __init__(self, generator: Any = None) -> None:
        self.rng = generator or random.Random(0)
        self.x, self.y = torch.randn(8, 4), torch.randn(8, 2)

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        return self.noise(self.x[index]), self.y[index]

    def noise(self, x: torch.Tensor) -> torch.Tensor:
        return x + float(self.rng.uniform(0, 1))


class Plain(Noisy):
    """Uses its generator in the constructor alone."""

    def noise(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Reseeded(Noisy):
    """Seeds anew for each sample."""

    def __getitem__(self, index: int) -> Any:
        self.rng.seed(index)
        return super().__getitem__(index)


class Aware(Noisy):
    """Knows its worker."""

    def noise(self, x: torch.Tensor) -> torch.Tensor:
        info = get_worker_info()
        return x + float(self.rng.uniform(0, 1)) + (info.id if info else 0)


class Shift:
    """A transform that draws."""

    def __init__(self) -> None:
        self.generator = torch.Generator()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand(4, generator=self.generator)


class Transformed(Plain):
    """Has a list of transforms."""

    def __init__(self) -> None:
        super().__init__()
        self.transforms = [Shift()]

    def noise(self, x: torch.Tensor) -> torch.Tensor:
        shifted: torch.Tensor = self.transforms[0](x)
        return shifted


class Globally(Plain):
    """Draws from NumPy's own generator."""

    def noise(self, x: torch.Tensor) -> torch.Tensor:
        return x + float(np.random.uniform())


def train(loader: Any, epochs: int = 1, each_epoch: Callable[[], object] = lambda: None) -> None:
    net = model()
    optimizer = adamw(net)
    for _ in range(epochs):
        each_epoch()
        for x, y in loader:
            optimizer.zero_grad()
            loss_of(net(x.float()), y).backward()
            optimizer.step()


def loads(dataset: Dataset[Any], workers: int = 2, **options: Any) -> DataLoader[Any]:
    return DataLoader(dataset, batch_size=4, num_workers=workers, multiprocessing_context="fork", **options)


def copies() -> None:
    train(DataLoader(Noisy(), batch_size=4, num_workers=2, multiprocessing_context="fork"))


SNAPSHOTS = {RULE: copies}


def test_found_at_the_loop_over_the_loader() -> None:
    (finding,) = find(copies)
    assert (finding.rule, finding.severity, finding.confidence) == (RULE, Severity.WARNING, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(train, "for x, y in loader")
    assert "Noisy.rng, a Random" in finding.seen


@pytest.mark.parametrize("make", [lambda: Noisy(np.random.default_rng(0)), Transformed])
def test_other_generators_and_places(make: Callable[[], Dataset[Any]]) -> None:
    assert rules(lambda: train(loads(make()))) == [RULE]


def test_one_worker_repeats_each_epoch() -> None:
    assert rules(lambda: train(loads(Noisy(), workers=1), epochs=2)) == [RULE]
    data = Noisy()
    assert rules(lambda: train(loads(data, workers=1), 2, lambda: data.rng.random())) == []
    assert rules(lambda: train(loads(Noisy(), workers=1), epochs=1)) == []


def from_the_state(worker: int) -> None:
    np.random.seed(np.random.get_state()[1][0] + worker)  # type: ignore[index]


def from_the_number(worker: int) -> None:
    np.random.seed(worker)


def from_torch(worker: int) -> None:
    np.random.seed(torch.initial_seed() % 2**32)


@pytest.mark.parametrize("init", [from_the_state, from_the_number])
def test_a_seed_that_is_the_same_in_each_epoch(init: Callable[[int], None]) -> None:
    assert rules(lambda: train(loads(Globally(), worker_init_fn=init), epochs=2)) == [RULE]
    assert rules(lambda: train(loads(Globally(), worker_init_fn=init), epochs=1)) == []
    assert rules(lambda: train(loads(Plain(), worker_init_fn=init), epochs=2)) == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: DataLoader(Noisy(), batch_size=4),
        lambda: loads(Plain()),
        lambda: loads(Reseeded()),
        lambda: loads(Aware()),
        lambda: loads(Globally()),
        lambda: loads(Globally(), worker_init_fn=from_torch),
        lambda: loads(Noisy(), worker_init_fn=from_torch),
        lambda: loads(Noisy(), workers=1, persistent_workers=True),
    ],
)
def test_look_alikes_are_left_alone(make: Callable[[], DataLoader[Any]]) -> None:
    assert RULE not in rules(lambda: train(make(), epochs=2))
