"""scheduler-before-optimizer: found where it is, silent on what looks like it."""

from __future__ import annotations

import pytest
import torch

from loopkit import Severity
from tests.loops import adamw, loader, loss_of, model
from tests.watched import find, line_of, rules

pytestmark = pytest.mark.filterwarnings("ignore:Detected call of")


def schedules_first() -> None:
    net = model()
    optimizer = adamw(net)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    for _ in range(3):
        scheduler.step()
        for x, y in loader():
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()


SNAPSHOTS = {"scheduler-before-optimizer": schedules_first}


def test_found_at_the_scheduler_when_its_line_comes_again() -> None:
    (finding,) = find(schedules_first)
    assert (finding.rule, finding.severity) == ("scheduler-before-optimizer", Severity.WARNING)
    assert finding.place is not None
    assert finding.place.line == line_of(schedules_first, "scheduler.step()")
    assert finding.places["step"].line == line_of(schedules_first, "optimizer.step()")
    assert "after 4 of its steps" in finding.seen


@pytest.mark.parametrize("between", [True, False])
def test_found_by_the_second_update_when_stepped_for_every_batch(between: bool) -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 10)
        for x, y in loader():
            if not between:
                scheduler.step()
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            if between:
                scheduler.step()
            optimizer.step()

    (finding,) = find(loop)
    assert (finding.rule, finding.step) == ("scheduler-before-optimizer", 2)


def test_silent_on_the_right_order_with_every_kind_of_scheduler() -> None:
    def loop() -> None:
        for make in (
            lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0),
            lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10),
            lambda optimizer: torch.optim.lr_scheduler.SequentialLR(
                optimizer,
                [
                    torch.optim.lr_scheduler.LinearLR(optimizer),
                    torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5),
                ],
                milestones=[2],
            ),
            lambda optimizer: torch.optim.lr_scheduler.ChainedScheduler(
                [torch.optim.lr_scheduler.LinearLR(optimizer), torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]
            ),
        ):
            net = model()
            optimizer = adamw(net)
            scheduler = make(optimizer)
            for x, y in loader():
                optimizer.zero_grad()
                loss_of(net(x), y).backward()
                optimizer.step()
                scheduler.step()

    assert rules(loop) == []


def test_silent_on_fast_forward_after_a_resume() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
        for _ in range(5):
            scheduler.step()
        for x, y in loader():
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()
            scheduler.step()

    assert rules(loop) == []


def test_silent_on_a_scheduler_told_its_position_or_a_metric() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        told = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 10)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        for i, (x, y) in enumerate(loader()):
            told.step(i / 4)
            plateau.step(1.0)
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()

    assert rules(loop) == []


def test_silent_when_a_scaler_skipped_the_first_steps() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
        for x, y in loader(samples=80):
            optimizer.zero_grad()
            scaler.scale(loss_of(net(x), y) * 1e10).backward()
            scaler.step(optimizer)
            scaler.update()
            scheduler.step()

    assert rules(loop) == []


def test_silent_on_a_scheduler_rebuilt_in_mid_run() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for _ in range(3):
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
            for x, y in loader():
                optimizer.zero_grad()
                loss_of(net(x), y).backward()
                optimizer.step()
                scheduler.step()

    assert rules(loop) == []
