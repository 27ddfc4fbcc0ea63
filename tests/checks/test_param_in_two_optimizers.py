"""param-in-two-optimizers: found at the second constructor, silent where they take turns."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loopkit import Confidence, Severity
from tests.loops import batches, loss_of, model
from tests.watched import find, line_of, rules

RULE = "param-in-two-optimizers"


class Two(nn.Module):
    """A trunk with two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(4, 8)
        self.one = nn.Linear(8, 2)
        self.other = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.tanh(self.trunk(x))
        return self.one(x), self.other(x)


def shared_trunk() -> None:
    net = Two()
    first = torch.optim.Adam([*net.trunk.parameters(), *net.one.parameters()], lr=0.01)
    second = torch.optim.Adam([*net.trunk.parameters(), *net.other.parameters()], lr=0.01)
    for x, y in batches():
        one, other = net(x)
        first.zero_grad()
        second.zero_grad()
        (loss_of(one, y) + loss_of(other, y)).backward()
        first.step()
        second.step()


SNAPSHOTS = {RULE: shared_trunk}


def test_found_at_the_second_constructor() -> None:
    (finding,) = find(shared_trunk)
    assert finding.rule == RULE
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(shared_trunk, "second = ")
    assert finding.places["second step"].line == line_of(shared_trunk, "second.step()")
    assert finding.evidence["shared"] == 2


def pair(net: Two) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    first = torch.optim.Adam([*net.trunk.parameters(), *net.one.parameters()], lr=0.01)
    return first, torch.optim.Adam([*net.trunk.parameters(), *net.other.parameters()], lr=0.01)


def test_found_where_each_loss_has_a_backward_of_its_own() -> None:
    def loop() -> None:
        net = Two()
        first, second = pair(net)
        for x, y in batches():
            one, other = net(x)
            loss_of(one, y).backward(retain_graph=True)
            loss_of(other, y).backward()
            for each in (first, second):
                each.step()
            for each in (first, second):
                each.zero_grad()

    assert RULE in rules(loop)


def test_silent_where_they_share_nothing() -> None:
    def loop() -> None:
        net = Two()
        first = torch.optim.Adam([*net.trunk.parameters(), *net.one.parameters()])
        second = torch.optim.SGD(net.other.parameters(), lr=0.1)
        for x, y in batches():
            one, other = net(x)
            (loss_of(one, y) + loss_of(other, y)).backward()
            for each in (first, second):
                each.step()
                each.zero_grad()

    assert rules(loop) == []


def test_silent_where_they_take_turns() -> None:
    def loop() -> None:
        net = Two()
        for x, y in batches(6):
            for number, each in enumerate(pair_of):
                each.zero_grad()
                loss_of(net(x)[number], y).backward()
                each.step()

    net = Two()
    pair_of = pair(net)
    assert RULE not in rules(loop)


def test_silent_where_gradients_are_cleared_in_between() -> None:
    def loop() -> None:
        net = Two()
        first, second = pair(net)
        for x, y in batches():
            one, other = net(x)
            (loss_of(one, y) + loss_of(other, y)).backward()
            first.step()
            first.zero_grad()
            second.step()
            second.zero_grad()

    assert RULE not in rules(loop)


def test_silent_on_a_frozen_shared_part() -> None:
    def loop() -> None:
        net = Two()
        net.trunk.requires_grad_(False)
        first, second = pair(net)
        for x, y in batches():
            one, other = net(x)
            (loss_of(one, y) + loss_of(other, y)).backward()
            for each in (first, second):
                each.step()
                each.zero_grad()

    assert rules(loop) == []


def test_silent_on_an_outer_loop_with_gradients_by_hand() -> None:
    def loop() -> None:
        net = model()
        outer = torch.optim.Adam(net.parameters(), lr=0.1)
        for _ in range(4):
            before = copy.deepcopy(net.state_dict())
            inner = torch.optim.SGD(net.parameters(), lr=0.1)
            for x, y in batches(3):
                inner.zero_grad()
                loss_of(net(x), y).backward()
                inner.step()
            for name, each in net.named_parameters():
                each.grad = before[name] - each.detach()
            net.load_state_dict(before)
            outer.step()

    assert RULE not in rules(loop)


class Around(torch.optim.Optimizer):
    """Steps another optimizer that has the same groups, as SAM does."""

    def __init__(self, parameters: Any, base: Any, **options: Any) -> None:
        super().__init__(parameters, options)
        self.base = base(self.param_groups, **options)
        self.param_groups = self.base.param_groups

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.base.step()


@pytest.mark.parametrize("lr", [0.1])
def test_silent_on_a_wrapper(lr: float) -> None:
    def loop() -> None:
        net = model()
        optimizer = Around(net.parameters(), torch.optim.SGD, lr=lr)
        for x, y in batches():
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()

    assert rules(loop) == []


def test_silent_on_a_hand_over() -> None:
    def loop() -> None:
        net = model()
        first = torch.optim.SGD(net.parameters(), lr=0.1)
        second = torch.optim.Adam(net.parameters(), lr=0.01)
        for number, (x, y) in enumerate(batches(6)):
            loss_of(net(x), y).backward()
            if number <= 3:
                first.step()
            if number >= 3:
                second.step()
            first.zero_grad()

    assert RULE not in rules(loop)
