"""loss-not-decreasing: found where it is, silent on what looks like it."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import loopkit
from loopkit import Confidence, Severity
from tests.loops import adamw, batches, loss_of, model
from tests.watched import find, line_of, rules

RULE = "loss-not-decreasing"
Loss = Callable[[Tensor, Tensor], Tensor]


def logs(loss: Callable[[int], float], updates: int = 240) -> None:
    """A correct loop that logs made losses, functions of the step."""
    net = model()
    optimizer = adamw(net)
    for n in range(updates):
        (x, y), *_ = batches(1)
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()
        loopkit.log("train/loss", loss(n))


def noisy(n: int) -> float:
    return random.Random(n).gauss(0, 0.05)


def flat(n: int) -> float:
    return 2.3 + noisy(n)


SNAPSHOTS: dict[str, Callable[[], None]] = {
    RULE: functools.partial(logs, flat),
    f"{RULE}-same": functools.partial(logs, lambda n: 2.25),
}


def test_a_flat_loss_is_named() -> None:
    (finding,) = find(SNAPSHOTS[RULE])
    assert (finding.rule, finding.severity, finding.confidence) == (RULE, Severity.WARNING, Confidence.HEURISTIC)


def test_one_number_again_and_again_is_named() -> None:
    (finding,) = find(SNAPSHOTS[f"{RULE}-same"])
    assert (finding.severity, finding.evidence["repeats"]) == (Severity.WARNING, 240)


def test_also_where_it_begins_late() -> None:
    (finding,) = find(functools.partial(logs, lambda n: 0.1 + math.exp(-min(n, 150) / 20)))
    assert (finding.step, finding.evidence["repeats"]) == (151, 90)


@pytest.mark.parametrize(
    ("loss", "updates"),
    [
        (flat, 40),  # a trial
        (lambda n: 2.25, 40),
        (lambda n: (1.9 + 0.4 * math.exp(-n / 10)) * math.exp(noisy(n)), 240),  # it fell a little
    ],
)
def test_what_may_be_well_is_only_said(loss: Callable[[int], float], updates: int) -> None:
    (finding,) = find(functools.partial(logs, loss, updates))
    assert (finding.rule, finding.severity) == (RULE, Severity.INFO)


@pytest.mark.parametrize(
    ("loss", "updates"),
    [
        (flat, 5),
        (lambda n: 2.3 * math.exp(-n / 60) + 0.3 + noisy(n), 240),
        (lambda n: 2.3 - n / 200 + noisy(n), 240),  # slow, and under way
        (lambda n: noisy(n), 240),  # of games
    ],
)
def test_look_alikes_are_left_alone(loss: Callable[[int], float], updates: int) -> None:
    assert RULE not in [finding.rule for finding in find(functools.partial(logs, loss, updates))]


def test_what_is_not_the_training_loss_is_left_alone() -> None:
    def loop() -> None:
        for n in range(240):
            loopkit.log("loss/generator", flat(n), step=n)

    assert find(loop) == []


# -- at the chance level -----------------------------------------------------------------------------------


def train(net: nn.Module, criterion: Loss, x: Tensor, y: Tensor, *, epochs: int = 4, rate: float = 0.01) -> None:
    """A loop that logs nothing, with a DataLoader."""
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    for _ in range(epochs):
        for inputs, targets in DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True):
            optimizer.zero_grad()
            loss = criterion(net(inputs), targets)
            loss.backward()
            optimizer.step()


def apart(x: Tensor, y: Tensor, epochs: int = 4) -> None:
    """Inputs and targets shuffled apart, anew in each epoch."""
    net = model()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(epochs):
        for inputs, targets in zip(x.split(16), y[torch.randperm(len(y))].split(16), strict=True):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(inputs), targets)
            loss.backward()
            optimizer.step()


def task(samples: int = 320) -> tuple[Tensor, Tensor]:
    x = torch.randn(samples, 4)
    return x, (x[:, 0] > 0.8).long()


def shuffled_apart() -> None:
    apart(*task())


SNAPSHOTS[f"{RULE}-chance"] = shuffled_apart


def test_shuffled_apart_it_stays_at_the_chance_level() -> None:
    (finding,) = find(shuffled_apart)
    assert (finding.rule, finding.severity, finding.confidence) == (RULE, Severity.WARNING, Confidence.HEURISTIC)
    assert finding.place is not None
    assert finding.place.line == line_of(apart, "loss = nn.functional")
    assert 0.3 < finding.evidence["chance"] < 0.6  # a fifth of the labels are 1
    assert finding.evidence["loss"] == pytest.approx(finding.evidence["chance"], rel=0.1)


def exclusive_or(samples: int = 320) -> tuple[Tensor, Tensor]:
    x = torch.rand(samples, 4) - 0.5
    return x, (x[:, 0] * x[:, 1] > 0).long()


def flat_model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))


@pytest.mark.parametrize(
    ("net", "criterion", "targets"),
    [
        (flat_model, nn.CrossEntropyLoss(), lambda y: y),
        (
            lambda: nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)),
            nn.BCEWithLogitsLoss(),
            lambda y: y.float(),
        ),
        (lambda: nn.Sequential(nn.Linear(4, 1)), nn.MSELoss(), lambda y: 3 + y.float()[:, None]),
    ],
)
def test_a_model_that_cannot_represent_the_task(
    net: Callable[[], nn.Module], criterion: Loss, targets: Callable[[Tensor], Tensor]
) -> None:
    x, y = exclusive_or(2000)
    loops = functools.partial(train, net(), criterion, x, targets(y), epochs=4, rate=0.05)
    assert rules(loops) == [RULE]


def test_an_accumulated_loss_is_compared_without_its_factor() -> None:
    x, y = exclusive_or()

    def quarter(output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output, target) / 4

    assert RULE in rules(functools.partial(train, flat_model(), quarter, x, y))


def sequences() -> None:
    net = nn.Sequential(nn.Embedding(6, 8), nn.Linear(8, 6))
    tokens = torch.randint(6, (160, 9))

    def next_token(output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output.reshape(-1, 6), target.reshape(-1))

    train(net, next_token, tokens[:, :-1], tokens[:, 1:], epochs=6)


def two_optimizers() -> None:
    x, y = exclusive_or()
    nets = [flat_model(), flat_model()]
    optimizers = [torch.optim.Adam(net.parameters(), lr=0.01) for net in nets]
    for _ in range(4):
        for inputs, targets in zip(x.split(16), y.split(16), strict=True):
            for net, optimizer in zip(nets, optimizers, strict=True):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(inputs), targets).backward()
                optimizer.step()


def weighted() -> nn.Module:
    return nn.CrossEntropyLoss(weight=torch.tensor([1.0, 1.0]))


@pytest.mark.parametrize(
    "loop",
    [
        lambda: train(model(), nn.CrossEntropyLoss(), *task()),  # learns
        lambda: train(model(), nn.CrossEntropyLoss(), *task(), rate=2e-3),  # slowly
        lambda: train(flat_model(), nn.CrossEntropyLoss(), *exclusive_or(), epochs=2),  # forty updates
        lambda: train(flat_model(), nn.CrossEntropyLoss(), torch.randn(1600, 4), torch.arange(1600) % 2, epochs=1),
        lambda: train(flat_model(), weighted(), *exclusive_or()),
        lambda: train(flat_model(), nn.CrossEntropyLoss(label_smoothing=0.1), *exclusive_or()),
        lambda: train(flat_model(), nn.CrossEntropyLoss(), torch.randn(320, 4), torch.zeros(320).long()),
        sequences,
        two_optimizers,
    ],
)
def test_near_the_chance_level_for_a_reason(loop: Callable[[], None]) -> None:
    assert RULE not in rules(loop)
