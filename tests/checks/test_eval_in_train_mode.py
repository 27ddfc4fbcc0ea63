"""eval-in-train-mode: found where it is, silent on what looks like it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader

from loopkit import Confidence, Severity
from tests.loops import adamw, batches, loader, loss_of
from tests.watched import find, line_of, rules

Loader = DataLoader[tuple[Tensor, ...]]


def with_both() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 2))


def epoch(net: nn.Module, optimizer: torch.optim.Optimizer, data: Loader) -> None:
    for x, y in data:
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()


def eval_was_forgotten() -> None:
    net, train, held_out = with_both(), loader(), loader(8)
    optimizer = adamw(net)
    right = 0
    for _ in range(2):
        epoch(net, optimizer, train)
        with torch.no_grad():
            for x, y in held_out:
                right += int((net(x).argmax(1) == y.argmax(1)).sum())


def eval_was_forgotten_without_a_loader() -> None:
    net = with_both()
    optimizer = adamw(net)
    features = torch.randn(6, 4)
    for x, y in batches(8):
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()
    with torch.inference_mode():
        F.mse_loss(net(features), features[:, :2])


SNAPSHOTS = {
    "eval-in-train-mode": eval_was_forgotten,
    "eval-in-train-mode-loss": eval_was_forgotten_without_a_loader,
}


def test_found_at_the_call() -> None:
    (finding,) = find(eval_was_forgotten)
    assert finding.rule == "eval-in-train-mode"
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(eval_was_forgotten, "net(x).argmax")
    assert finding.step == 4
    assert "2 dropouts drew (p = 0.2)" in finding.seen
    assert "of 1 batch normalisation changed" in finding.seen


def test_a_guess_by_the_loss_is_a_warning() -> None:
    (finding,) = find(eval_was_forgotten_without_a_loader)
    assert (finding.rule, finding.evidence["known_by"]) == ("eval-in-train-mode", "loss")
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.HEURISTIC)


def test_a_guess_by_the_words_of_the_line_is_a_warning() -> None:
    def loop() -> None:
        net = with_both()
        optimizer = adamw(net)
        x_val = torch.randn(6, 4)
        for x, y in batches(8):
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()
            with torch.no_grad():
                net(x_val).argmax(1)

    (finding,) = find(loop)
    assert (finding.severity, finding.evidence["known_by"]) == (Severity.WARNING, "name")


@pytest.mark.parametrize("layer", [nn.Dropout(0.1), nn.BatchNorm1d(8), nn.AlphaDropout(0.1)])
def test_found_for_each_kind_of_layer(layer: nn.Module) -> None:
    def loop() -> None:
        net = nn.Sequential(nn.Linear(4, 8), layer, nn.Linear(8, 2))
        optimizer, train, held_out = adamw(net), loader(), loader(8)
        epoch(net, optimizer, train)
        with torch.no_grad():
            for x, _ in held_out:
                net(x)

    assert rules(loop) == ["eval-in-train-mode"]


def test_found_where_an_evaluation_has_switched_back_before_the_test() -> None:
    def loop() -> None:
        net, train, held_out, last = with_both(), loader(), loader(8), loader(8)
        optimizer = adamw(net)
        epoch(net, optimizer, train)
        net.eval()
        with torch.no_grad():
            for x, _ in held_out:
                net(x)
        net.train()
        with torch.no_grad():
            for x, _ in last:
                net(x)

    assert rules(loop) == ["eval-in-train-mode"]


def _run(evaluate: Callable[[nn.Module, Loader, Loader], Any], epochs: int = 2) -> Callable[[], None]:
    def loop() -> None:
        net, train, other = with_both(), loader(24), loader(8)
        optimizer = adamw(net)
        for _ in range(epochs):
            epoch(net, optimizer, train)
            with torch.no_grad():
                evaluate(net, train, other)

    return loop


def in_evaluation_mode(net: nn.Module, train: Loader, other: Loader) -> None:
    net.eval()
    for x, y in other:
        F.mse_loss(net(x), y)
    net.train()


def by_monte_carlo(net: nn.Module, train: Loader, other: Loader) -> None:
    for x, _ in other:
        torch.stack([net(x) for _ in range(4)])


def by_monte_carlo_without_a_loader(net: nn.Module, train: Loader, other: Loader) -> None:
    x_test = torch.randn(4, 4)
    torch.stack([net(x_test) for _ in range(4)])


def with_dropout_alone_awake(net: nn.Module, train: Loader, other: Loader) -> None:
    net.eval()
    for each in net.modules():
        if isinstance(each, nn.Dropout):
            each.train()
    for x, y in other:
        F.mse_loss(net(x), y)
    net.train()


def of_an_average(net: nn.Module, train: Loader, other: Loader) -> None:
    averaged = copy.deepcopy(net)
    update_bn(train, averaged)
    update_bn(other, net)
    net.train()


def statistics_by_hand(net: nn.Module, train: Loader, other: Loader) -> None:
    net.train()
    for x, _ in other:
        net(x)


def over_training_data(net: nn.Module, train: Loader, other: Loader) -> None:
    for x, _ in train:
        net(x)


def samples(net: nn.Module, train: Loader, other: Loader) -> None:
    net(torch.randn(4, 4))


def of_another_model(net: nn.Module, train: Loader, other: Loader) -> None:
    teacher = with_both()
    for x, y in other:
        F.mse_loss(teacher(x), y)


@pytest.mark.parametrize(
    "evaluate",
    [
        in_evaluation_mode,
        by_monte_carlo,
        by_monte_carlo_without_a_loader,
        with_dropout_alone_awake,
        of_an_average,
        statistics_by_hand,
        over_training_data,
        samples,
        of_another_model,
    ],
)
def test_silent_on(evaluate: Callable[[nn.Module, Loader, Loader], Any]) -> None:
    assert "eval-in-train-mode" not in rules(_run(evaluate))


def test_silent_without_layers_that_depend_on_the_mode() -> None:
    def loop() -> None:
        net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Dropout(0.0), nn.Linear(8, 2))
        optimizer, train, held_out = adamw(net), loader(), loader(8)
        epoch(net, optimizer, train)
        with torch.no_grad():
            for x, y in held_out:
                F.mse_loss(net(x), y)

    assert rules(loop) == []


def test_silent_on_pseudo_labels_of_a_second_loader() -> None:
    def loop() -> None:
        net, labelled, unlabelled = with_both(), loader(32), loader(32)
        optimizer = adamw(net)
        for (u, _), (x, y) in zip(unlabelled, labelled, strict=True):
            with torch.no_grad():
                wanted = net(u)
            optimizer.zero_grad()
            (loss_of(net(x), y) + loss_of(net(u), wanted)).backward()
            optimizer.step()

    assert rules(loop) == []


def test_silent_on_cached_gradients_mining_and_rollouts() -> None:
    def loop() -> None:
        net = with_both()
        optimizer = adamw(net)
        for x, y in batches(24):
            with torch.no_grad():
                F.mse_loss(net(x), y, reduction="none").mean(1).topk(2)
                for _ in range(3):
                    net(torch.randn(4, 4))
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()

    assert "eval-in-train-mode" not in rules(loop)


def train_and_evaluate(dev: str = "cpu") -> None:
    net = with_both()
    optimizer = adamw(net)
    for x, y in batches(12):
        with torch.no_grad():
            wanted = net(x.to(dev))
        optimizer.zero_grad()
        (loss_of(net(x), y) + loss_of(net(x), wanted)).backward()
        optimizer.step()


def test_silent_on_words_that_say_nothing() -> None:
    assert "eval-in-train-mode" not in rules(train_and_evaluate)


def test_silent_before_the_first_step_and_on_a_teacher_of_a_new_loader() -> None:
    def loop() -> None:
        net, first, second = with_both(), loader(24), loader(24)
        optimizer = adamw(net)
        with torch.no_grad():
            net(torch.randn(4, 4))
        epoch(net, optimizer, first)
        for x, y in second:
            with torch.no_grad():
                wanted = net(x)
            optimizer.zero_grad()
            (loss_of(net(x), y) + loss_of(net(x), wanted)).backward()
            optimizer.step()

    assert rules(loop) == []
