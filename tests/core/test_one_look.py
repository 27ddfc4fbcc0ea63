"""Ordinary updates of the only optimizer are looked at once, by their step: what ends that, and what is seen then."""

from __future__ import annotations

import torch
from torch import nn

import loopkit
from loopkit import StepReading

MANY = 40  # more than it takes until steps are ordinary


class Reads:
    """The reading of each step."""

    def __init__(self) -> None:
        self.readings: list[StepReading] = []

    @loopkit.hookimpl
    def after_step(self, run: loopkit.Run) -> None:
        reading = run.recorder.last_reading()
        assert reading is not None
        self.readings.append(reading)


def _update(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    net(torch.randn(3, 2)).sum().backward()
    optimizer.step()


def _is_ordinary(reading: StepReading) -> bool:
    return reading.fresh == reading.parameters == 2 and reading.contributions == 1 and not reading.wipes


def test_a_second_optimizer_is_looked_at_from_its_first_backward_on() -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    reads = Reads()
    with loopkit.watch(autoload=False, plugins=[reads]) as run:
        one = torch.optim.SGD(first.parameters(), 0.1)
        for _ in range(MANY):
            _update(first, one)
        one.zero_grad()
        first(torch.randn(3, 2)).sum().backward()  # put off, and then there are two
        assert run.recorder.ledger.late is not None
        other = torch.optim.SGD(second.parameters(), 0.1)
        assert run.recorder.ledger.late is None
        for _ in range(3):
            _update(second, other)
    assert all(map(_is_ordinary, reads.readings))
    assert len(reads.readings) == MANY + 3


def test_what_a_skipped_step_left_is_not_fresh_any_more() -> None:
    net = nn.Linear(2, 2)
    reads = Reads()
    with loopkit.watch(autoload=False, plugins=[reads]):
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
        for i in range(MANY):
            optimizer.zero_grad()
            loss = net(torch.randn(3, 2)).sum() * (float("inf") if i == MANY - 2 else 1)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    assert len(reads.readings) == MANY - 1
    assert all(map(_is_ordinary, reads.readings))


def test_a_clear_that_moves_between_backward_and_step_wipes_what_was_not_looked_at() -> None:
    for to_none in (True, False):
        net, reads = nn.Linear(2, 2), Reads()
        with loopkit.watch(autoload=False, plugins=[reads]):
            optimizer = torch.optim.SGD(net.parameters(), 0.1)
            for _ in range(MANY):
                _update(net, optimizer)
            optimizer.zero_grad()
            net(torch.randn(3, 2)).sum().backward()
            optimizer.zero_grad(set_to_none=to_none)
            optimizer.step()
        last = reads.readings[-1]
        assert all(map(_is_ordinary, reads.readings[:-1]))
        assert last.without == 2
        assert last.wipes[0].parameters == 2
        assert last.wipes[0].cleared is not None
