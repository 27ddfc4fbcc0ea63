"""schedule-horizon-mismatch: found where it is, silent on what looks like it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as schedules

from loopkit import Confidence, Finding, Severity, StopTraining
from tests.loops import adamw, loader, loss_of, model
from tests.watched import find, line_of, rules

RULE = "schedule-horizon-mismatch"
Make = Callable[[torch.optim.Optimizer], Any]


def train(make: Make, *, epochs: int = 4, length: int = 12, window: int = 1, per_epoch: bool = False) -> None:
    """A loop that advances its scheduler after each step, or once an epoch."""
    net = model()
    optimizer = adamw(net)
    scheduler = make(optimizer)
    data = loader(samples=4 * length)
    for _ in range(epochs):
        for i, (x, y) in enumerate(data):
            (loss_of(net(x), y) / window).backward()
            if (i + 1) % window == 0:
                optimizer.step()
                optimizer.zero_grad()
                if not per_epoch:
                    scheduler.step()
        if per_epoch:
            scheduler.step()


def loop(make: Make, **shape: Any) -> Callable[[], None]:
    return functools.partial(train, make, **shape)


def cosine(length: int) -> Make:
    return lambda optimizer: schedules.CosineAnnealingLR(optimizer, length)


def linear(warmup: int, total: int) -> Make:
    """As transformers makes it: a partial whose keywords tell the lengths."""
    return lambda optimizer: schedules.LambdaLR(
        optimizer, functools.partial(_linear, num_warmup_steps=warmup, num_training_steps=total)
    )


def _linear(step: int, *, num_warmup_steps: int, num_training_steps: int) -> float:
    if step < num_warmup_steps:
        return step / num_warmup_steps
    return max(0.0, (num_training_steps - step) / max(1, num_training_steps - num_warmup_steps))


def own_cosine(total: int) -> Make:
    return lambda optimizer: schedules.LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / total)))


def warm_then_cosine(warmup: int, length: int) -> Make:
    return lambda optimizer: schedules.SequentialLR(
        optimizer,
        [schedules.LinearLR(optimizer, 0.1, 1.0, warmup), schedules.CosineAnnealingLR(optimizer, length)],
        milestones=[warmup],
    )


def counts_micro_batches() -> None:
    net = model()
    optimizer = adamw(net)
    data = loader(samples=96)
    epochs, window = 2, 4
    scheduler = schedules.CosineAnnealingLR(optimizer, T_max=epochs * len(data))
    for _ in range(epochs):
        for i, (x, y) in enumerate(data):
            (loss_of(net(x), y) / window).backward()
            if (i + 1) % window == 0:
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()


def climbs_again() -> None:
    net = model()
    optimizer = adamw(net)
    data = loader(samples=48)
    scheduler = schedules.CosineAnnealingLR(optimizer, T_max=5)
    for _ in range(5):
        for x, y in data:
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()
            scheduler.step()


def stands_still() -> None:
    net = model()
    optimizer = adamw(net)
    data = loader(samples=64)
    scheduler = linear(2, len(data))(optimizer)
    for _ in range(3):
        for x, y in data:
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()
            scheduler.step()


SNAPSHOTS = {
    "schedule-horizon-mismatch": counts_micro_batches,
    "schedule-horizon-mismatch-climbs": climbs_again,
    "schedule-horizon-mismatch-zero": stands_still,
}


def one(function: Callable[[], None]) -> Finding:
    (finding,) = find(function)
    assert (finding.rule, finding.severity) == (RULE, Severity.WARNING)
    return finding


def test_found_at_the_scheduler_with_where_it_was_made_and_both_counts() -> None:
    finding = one(counts_micro_batches)
    assert finding.confidence is Confidence.PROOF
    assert finding.place is not None
    assert finding.place.line == line_of(counts_micro_batches, "scheduler.step()")
    assert finding.places["scheduler made"].line == line_of(counts_micro_batches, "T_max=")
    assert "ends at advance 48, which is the number of micro-batches" in finding.seen
    assert "12 times, 25.0% of its schedule" in finding.seen


def test_found_where_a_cosine_in_epochs_is_stepped_by_batches() -> None:
    finding = one(climbs_again)
    assert finding.confidence is Confidence.PROOF
    assert "at advance 5 (the run had 5 epochs) and went on to 60" in finding.seen


def test_found_where_the_rate_is_0_for_most_of_the_run() -> None:
    finding = one(stands_still)
    assert finding.confidence is Confidence.PROOF
    assert "at 0 from advance 16 of 48 on: 32 of 48 updates idle" in finding.seen


@pytest.mark.parametrize(
    ("what", "function"),
    [
        ("micro-batches", loop(linear(4, 48), window=3)),
        ("micro-batches", loop(own_cosine(48), window=4)),
        ("micro-batches", loop(warm_then_cosine(8, 40), window=4)),
        ("samples", loop(cosine(192))),
        ("samples", loop(linear(10, 192), window=3)),
        ("updates", loop(lambda o: schedules.OneCycleLR(o, 0.1, total_steps=48), per_epoch=True)),
        ("updates", loop(cosine(48), per_epoch=True)),
        ("updates", loop(own_cosine(48), per_epoch=True)),
        ("updates", loop(warm_then_cosine(6, 42), per_epoch=True)),
        ("up for 40", loop(lambda o: schedules.LinearLR(o, 0.1, 1.0, 40), per_epoch=True)),
        ("at 0 from advance 12 of 48", loop(lambda o: schedules.PolynomialLR(o, 12))),
        ("at 0 from advance", loop(lambda o: schedules.LambdaLR(o, lambda step: max(0.0, 1 - step / 12)))),
        ("raises", loop(cosine(12))),
        ("raises", loop(cosine(30))),
        ("raises", loop(lambda o: schedules.ChainedScheduler([schedules.CosineAnnealingLR(o, 4)]))),
        ("raises", loop(warm_then_cosine(1, 3))),
        ("of its base: 48 advances", loop(lambda o: schedules.StepLR(o, 2, 0.3))),
        ("of its base: 48 advances", loop(lambda o: schedules.ExponentialLR(o, 0.5))),
        ("of its base: 48 advances", loop(lambda o: schedules.ExponentialLR(o, 0.75))),
        ("last milestone at advance 3", loop(lambda o: schedules.MultiStepLR(o, [2, 3]))),
        ("a decay every 2 advances", loop(lambda o: schedules.StepLR(o, 2, 0.7))),
    ],
)
def test_found_with(what: str, function: Callable[[], None]) -> None:
    assert what in one(function).seen


@pytest.mark.parametrize(
    "function",
    [
        loop(cosine(48)),
        loop(cosine(12), window=4),
        loop(cosine(4), per_epoch=True),
        loop(cosine(50)),
        loop(cosine(46)),
        loop(cosine(100)),
        loop(cosine(16)),
        loop(cosine(2), per_epoch=True),
        loop(cosine(200), per_epoch=True),
        loop(linear(5, 48)),
        loop(linear(5, 45)),
        loop(linear(1000, 10000)),
        loop(warm_then_cosine(8, 40)),
        loop(warm_then_cosine(8, 48)),
        loop(own_cosine(48)),
        loop(own_cosine(4), per_epoch=True),
        loop(lambda o: schedules.OneCycleLR(o, 0.1, total_steps=48)),
        loop(lambda o: schedules.OneCycleLR(o, 0.1, total_steps=49)),
        loop(lambda o: schedules.CosineAnnealingWarmRestarts(o, 4)),
        loop(lambda o: schedules.CyclicLR(o, 0.001, 0.1, 4, cycle_momentum=False)),
        loop(lambda o: schedules.LinearLR(o, 0.1, 1.0, 5)),
        loop(lambda o: schedules.ConstantLR(o)),
        loop(lambda o: schedules.ExponentialLR(o, 0.95)),
        loop(lambda o: schedules.ExponentialLR(o, 0.9), per_epoch=True),
        loop(lambda o: schedules.StepLR(o, 24, 0.1)),
        loop(lambda o: schedules.StepLR(o, 2, 0.1), per_epoch=True),
        loop(lambda o: schedules.MultiStepLR(o, [24, 36])),
        loop(lambda o: schedules.MultiStepLR(o, [2, 3]), per_epoch=True),
        loop(lambda o: schedules.PolynomialLR(o, 48)),
        loop(lambda o: schedules.LambdaLR(o, lambda step: min(1.0, (step + 1) / 5))),
        loop(lambda o: schedules.MultiplicativeLR(o, lambda step: 0.95)),
        loop(lambda o: schedules.LinearLR(o, 0.1, 1.0, 10), per_epoch=True),
        loop(lambda o: schedules.LinearLR(o, 1.0, 0.1, 10)),
    ],
)
def test_silent_on(function: Callable[[], None]) -> None:
    assert rules(function) == []


@pytest.mark.parametrize("per_epoch", [False, True])
def test_found_where_a_plateau_is_asked_after_each_batch(per_epoch: bool) -> None:
    def plateau() -> None:
        net = model()
        optimizer = adamw(net)
        scheduler = schedules.ReduceLROnPlateau(optimizer, patience=1, factor=0.01)
        for _ in range(4):
            for x, y in loader(samples=48):
                optimizer.zero_grad()
                loss_of(net(x), y).backward()
                optimizer.step()
                if not per_epoch:
                    scheduler.step(1.0)
            if per_epoch:
                scheduler.step(1.0)

    found = find(plateau)
    assert [finding.rule for finding in found] == [RULE] * (not per_epoch)
    assert per_epoch or "below 2e-05 of its base by advance 9 of 48" in found[0].seen


def test_silent_on_a_function_that_converts_epochs_to_updates() -> None:
    length, epochs = 12, 4
    total = length * epochs

    def of_epoch(epoch: int) -> float:
        return 1 - 0.4 * (epoch * length) / total

    assert rules(loop(lambda o: schedules.LambdaLR(o, of_epoch), per_epoch=True)) == []


def test_silent_on_a_run_that_was_stopped_in_its_warm_up() -> None:
    def stopped() -> None:
        train(linear(60, 48))
        raise StopTraining("enough")

    assert rules(stopped) == []


def test_silent_on_a_warm_up_in_an_epoch_that_was_broken_off() -> None:
    def tried() -> None:
        net = model()
        optimizer = adamw(net)
        scheduler = schedules.LinearLR(optimizer, 0.1, 1.0, 100)
        for i, (x, y) in enumerate(loader(samples=400)):
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()
            scheduler.step()
            if i == 20:
                break

    assert rules(tried) == []


def test_silent_on_a_resumed_run() -> None:
    def resumed() -> None:
        net = model()
        optimizer = adamw(net)
        for group in optimizer.param_groups:
            group["initial_lr"] = 0.01
        scheduler = schedules.CosineAnnealingLR(optimizer, 5, last_epoch=3)
        for _ in range(5):
            for x, y in loader(samples=48):
                optimizer.zero_grad()
                loss_of(net(x), y).backward()
                optimizer.step()
                scheduler.step()

    assert rules(resumed) == []


def test_silent_on_a_state_that_was_loaded() -> None:
    def resumed() -> None:
        net = model()
        optimizer = adamw(net)
        scheduler = schedules.CosineAnnealingLR(optimizer, 5)
        scheduler.load_state_dict({**scheduler.state_dict(), "last_epoch": 30})
        for _ in range(5):
            for x, y in loader(samples=48):
                optimizer.zero_grad()
                loss_of(net(x), y).backward()
                optimizer.step()
                scheduler.step()

    assert rules(resumed) == []


@pytest.mark.filterwarnings("ignore:Detected call of")
def test_silent_on_a_schedule_that_is_only_plotted() -> None:
    def plotted() -> None:
        net = model()
        optimizer = adamw(net)
        scheduler = schedules.CosineAnnealingLR(optimizer, 20)
        for _ in range(30):
            scheduler.step()
        for _ in range(4):
            for x, y in loader(samples=48):
                optimizer.zero_grad()
                loss_of(net(x), y).backward()
                optimizer.step()

    assert RULE not in rules(plotted)


def test_silent_on_the_two_players_of_a_gan() -> None:
    def gan() -> None:
        net, judge = model(), model()
        ours, theirs = adamw(net), adamw(judge)
        both = [schedules.CosineAnnealingLR(each, 40) for each in (ours, theirs)]
        for _ in range(4):
            for x, y in loader(samples=40):
                theirs.zero_grad()
                loss_of(judge(x), y).backward()
                loss_of(judge(net(x).detach().repeat(1, 2)), y).backward()
                theirs.step()
                ours.zero_grad()
                loss_of(net(x), y).backward()
                ours.step()
                for scheduler in both:
                    scheduler.step()

    assert rules(gan) == []


def test_each_fold_is_judged_by_itself() -> None:
    def folds() -> None:
        for _ in range(3):
            train(cosine(48))

    def wrong_folds() -> None:
        for _ in range(3):
            train(linear(2, 16), epochs=4)

    assert rules(folds) == []
    assert RULE in rules(wrong_folds)


def test_silent_where_rates_are_tensors() -> None:
    def tensors() -> None:
        net = model()
        optimizer = torch.optim.AdamW(net.parameters(), lr=torch.tensor(0.01), foreach=False)
        scheduler = schedules.ExponentialLR(optimizer, 0.3)
        for _ in range(4):
            for x, y in loader(samples=48):
                optimizer.zero_grad()
                loss_of(net(x), y).backward()
                optimizer.step()
                scheduler.step()

    assert rules(tensors) == []
