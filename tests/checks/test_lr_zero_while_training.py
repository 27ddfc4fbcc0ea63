"""lr-zero-while-training: found where it is, silent on what looks like it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as schedules

from loopkit import Confidence, Finding, Severity
from tests.loops import adamw, loader, loss_of, model
from tests.watched import find, line_of, rules

RULE = "lr-zero-while-training"

pytestmark = pytest.mark.filterwarnings("ignore:Detected call of")
Schedule = Callable[[int], float]


def by_epoch(function: Schedule, epochs: int = 6) -> None:
    net, data = model(), loader(samples=32)
    optimizer = adamw(net)
    scheduler = schedules.LambdaLR(optimizer, function)
    for _ in range(epochs):
        for x, y in data:
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()
        scheduler.step()


def by_update(function: Schedule, steps: int = 40) -> None:
    net = model()
    optimizer = adamw(net)
    scheduler = schedules.LambdaLR(optimizer, function)
    for x, y in loader(samples=4 * steps):
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()
        scheduler.step()


def by_hand(function: Schedule, steps: int = 80) -> None:
    net = model()
    optimizer = adamw(net)
    for n, (x, y) in enumerate(loader(samples=4 * steps)):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * function(n)
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()


def divides_whole(step: int) -> float:
    return min(1, step // 500)


def rises(step: int) -> float:
    return min(1.0, step / 5)


first_epoch = functools.partial(by_epoch, rises)
whole_run = functools.partial(by_update, divides_whole)
SNAPSHOTS = {RULE: whole_run, f"{RULE}-epoch": first_epoch}


def one(function: Callable[[], None]) -> Finding:
    (finding,) = find(function, select=[RULE])
    return finding


def test_the_whole_run_is_an_error_at_the_scheduler() -> None:
    finding = one(whole_run)
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(by_update, "LambdaLR")
    assert finding.places["step"].line == line_of(by_update, "optimizer.step()")
    assert finding.evidence["whole_run"]


def test_no_other_rule_says_the_same() -> None:
    assert rules(whole_run) == [RULE]


def test_the_first_epoch_is_a_warning() -> None:
    finding = one(first_epoch)
    assert finding.severity is Severity.WARNING
    assert "from update 1 to update" in finding.seen
    assert not finding.evidence["whole_run"]


def test_found_where_rates_are_written_by_hand() -> None:
    finding = one(functools.partial(by_hand, lambda n: max(0.0, 1 - n / 20)))
    assert finding.severity is Severity.WARNING
    assert finding.place is not None
    assert finding.place.line == line_of(by_hand, "optimizer.step()")


def test_beside_an_optimizer_that_trains_it_is_info() -> None:
    def pair() -> None:
        nets = model(), model()
        optimizers = adamw(nets[0]), torch.optim.SGD(nets[1].parameters(), lr=0.0)
        for x, y in loader(samples=64):
            for net, optimizer in zip(nets, optimizers, strict=True):
                optimizer.zero_grad()
                loss_of(net(x), y).backward()
                optimizer.step()

    assert one(pair).severity is Severity.INFO


def frozen_group() -> None:
    net = model()
    groups: list[dict[str, Any]] = [{"params": net[0].parameters(), "lr": 0.0}, {"params": net[2].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    for x, y in loader(samples=64):
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()


def weights_move_all_the_same() -> None:
    """As with an optimizer that writes its rate only while it steps."""
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for x, y in loader(samples=64):
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.param_groups[0]["lr"] = 0.1
        optimizer.step()
        optimizer.param_groups[0]["lr"] = 0.0


@pytest.mark.parametrize(
    "loop",
    [
        functools.partial(by_update, lambda step: min(1.0, step / 10)),
        functools.partial(by_update, lambda step: max(0.0, 1 - step / 36)),
        functools.partial(by_epoch, lambda epoch: (epoch + 1) / 6),
        functools.partial(by_epoch, lambda epoch: max(0.0, 1 - epoch / 5)),
        functools.partial(by_hand, lambda n: max(0.0, 1 - n / 76)),
        frozen_group,
        weights_move_all_the_same,
    ],
)
def test_look_alikes_are_left_alone(loop: Callable[[], None]) -> None:
    assert RULE not in rules(loop)


def test_a_rate_that_is_a_tensor_is_not_read() -> None:
    def on_device() -> None:
        net = model()
        optimizer = torch.optim.AdamW(net.parameters(), lr=torch.tensor(0.0))
        for x, y in loader(samples=64):
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()

    assert RULE not in rules(on_device)
