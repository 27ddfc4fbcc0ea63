"""rng-reset-in-loop: found where it is, silent on what looks like it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from loopkit import Confidence, Severity
from tests.loops import adamw, loss_of
from tests.watched import find, line_of, rules

RULE = "rng-reset-in-loop"
DATA = TensorDataset(torch.randn(16, 4), torch.randn(16, 2))
Act = Callable[[], object]


def noisy() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))


def nothing() -> None:
    pass


def train(net: nn.Module, batches: Any, each_epoch: Act = nothing, each_step: Act = nothing, epochs: int = 3) -> None:
    optimizer = adamw(net)
    for _ in range(epochs):
        each_epoch()
        for x, y in batches:
            each_step()
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()


def shuffling(**options: Any) -> DataLoader[Any]:
    return DataLoader(DATA, batch_size=4, shuffle=True, **options)


def seeds() -> None:
    torch.manual_seed(3)


def in_each_epoch() -> None:
    train(nn.Linear(4, 2), shuffling(), each_epoch=seeds)


def in_each_step() -> None:
    train(noisy(), DataLoader(DATA, batch_size=4), each_step=seeds)


SNAPSHOTS = {RULE: in_each_epoch, f"{RULE}-step": in_each_step}


@pytest.mark.parametrize("loop", [in_each_epoch, in_each_step])
def test_found_at_the_seed(loop: Act) -> None:
    (finding,) = find(loop)
    assert (finding.rule, finding.severity, finding.confidence) == (RULE, Severity.WARNING, Confidence.FACT)
    assert finding.place is not None
    assert finding.place.line == line_of(seeds, "manual_seed")
    assert finding.places["drawn"].function == "train"


def test_a_generator_of_the_loaders_own() -> None:
    generator = torch.Generator()
    (finding,) = find(
        lambda: train(nn.Linear(4, 2), shuffling(generator=generator), each_epoch=lambda: generator.manual_seed(1))
    )
    assert finding.place is not None
    assert finding.place.line == line_of(train, "for x, y in batches")


def test_a_state_that_is_set_back() -> None:
    state = torch.get_rng_state()
    assert rules(lambda: train(noisy(), shuffling(), each_epoch=lambda: torch.set_rng_state(state))) == [RULE]


def test_an_evaluation_that_seeds() -> None:
    net = noisy()

    def evaluate() -> None:
        torch.manual_seed(0)
        with torch.no_grad():
            net(torch.randn(4, 4))

    assert rules(lambda: train(net, shuffling(), each_epoch=evaluate)) == [RULE]


# -- look-alikes -------------------------------------------------------------------------------------------


def of_its_own() -> None:
    torch.manual_seed(random.Random().randrange(1 << 60))


def forked() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.randn(3)


def several_trainings() -> None:
    batches = shuffling()
    for _ in range(3):
        torch.manual_seed(0)
        train(noisy(), batches, epochs=1)


class Recomputed(nn.Module):
    """Runs its block again in backward, with the same dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = noisy(), nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(checkpoint(self.block, x, use_reentrant=False))
        return out


@pytest.mark.parametrize(
    "loop",
    [
        lambda: train(noisy(), shuffling()),
        lambda: train(noisy(), shuffling(), each_epoch=of_its_own),
        lambda: train(noisy(), shuffling(), each_epoch=forked, each_step=forked),
        lambda: train(Recomputed(), shuffling()),
        lambda: train(nn.Linear(4, 2), DataLoader(DATA, batch_size=4), each_step=seeds),  # draws nothing
        several_trainings,
    ],
)
def test_look_alikes_are_left_alone(loop: Act) -> None:
    torch.manual_seed(0)
    assert RULE not in rules(loop)
