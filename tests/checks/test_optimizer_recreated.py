"""optimizer-recreated: found where it is constructed, silent on restarts by design."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from loopkit import Confidence, Severity
from tests.loops import batches, loader, loss_of, model
from tests.watched import find, line_of, rules

RULE = "optimizer-recreated"


def train(net: nn.Module, optimizer: torch.optim.Optimizer, data: Any) -> None:
    for x, y in data:
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()


def each_step() -> None:
    net = model()
    for x, y in loader(samples=32):
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()


def each_epoch() -> None:
    net = model()
    data = loader(samples=96)  # 24 steps: longer than the momentum looks back
    for _ in range(4):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
        train(net, optimizer, data)


SNAPSHOTS = {RULE: each_step, f"{RULE}-epoch": each_epoch}


def test_found_at_its_constructor() -> None:
    (finding,) = find(each_step)
    assert finding.rule == RULE
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.FACT)
    assert finding.place is not None
    assert finding.place.line == line_of(each_step, "optimizer = ")
    assert set(finding.evidence["steps"]) == {1}
    assert finding.count == 1


def test_found_where_each_lives_for_one_pass_over_a_loader() -> None:
    (finding,) = find(each_epoch)
    assert finding.place is not None
    assert finding.place.line == line_of(each_epoch, "optimizer = ")
    assert "one pass over the training loader" in finding.seen


def test_found_where_the_same_loader_is_evaluated_on_in_between() -> None:
    def loop() -> None:
        net, data = model(), loader(samples=96)
        for _ in range(3):
            train(net, torch.optim.Adam(net.parameters(), lr=0.01), data)
            with torch.no_grad():
                for x, _ in data:
                    net(x)

    assert rules(loop) == [RULE]


def test_found_where_it_lives_shorter_than_its_momentum() -> None:
    def loop() -> None:
        net = model()
        for _ in range(4):
            train(net, torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9), batches(5))

    (finding,) = find(loop)
    assert "fewer than the 10 that its momentum looks back" in finding.seen


@pytest.mark.parametrize("fused", [False, True])
def test_found_whatever_the_step_does_to_versions(fused: bool) -> None:
    def loop() -> None:
        net = model()
        for _ in range(4):
            train(net, torch.optim.AdamW(net.parameters(), lr=0.01, fused=fused), batches(3))

    assert rules(loop) == [RULE]


def test_silent_on_one_that_keeps_nothing() -> None:
    def loop() -> None:
        net = model()
        for _ in range(6):
            train(net, torch.optim.SGD(net.parameters(), lr=0.01), batches(1))

    assert rules(loop) == []


def test_silent_on_folds() -> None:
    def loop() -> None:
        for _ in range(5):
            net = model()
            train(net, torch.optim.Adam(net.parameters()), batches(4))

    assert rules(loop) == []


@pytest.mark.parametrize("way", ["load", "copy", "data", "hidden"])
def test_silent_where_each_task_starts_from_the_same_weights(way: str) -> None:
    def loop() -> None:
        net = model()
        start = copy.deepcopy(net.state_dict())
        for _ in range(6):
            train(net, torch.optim.Adam(net.parameters(), lr=0.01), batches(3))
            if way == "load":
                net.load_state_dict(start)
            elif way in ("data", "hidden"):
                for name, each in net.named_parameters():
                    now = start[name] + 0.1 * (each.data - start[name])
                    if way == "data":
                        each.data = now
                    else:
                        each.data.copy_(now)
            else:
                with torch.no_grad():
                    for name, each in net.named_parameters():
                        each.copy_(start[name] + 0.1 * (each - start[name]))

    assert rules(loop) == []


def test_silent_where_weights_are_loaded_after_it_was_constructed() -> None:
    def loop() -> None:
        net = model()
        start = copy.deepcopy(net.state_dict())
        for _ in range(6):
            optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
            net.load_state_dict(start)
            train(net, optimizer, batches(3))

    assert rules(loop) == []


def test_silent_where_the_state_is_loaded() -> None:
    def loop() -> None:
        net = model()
        state: dict[str, Any] = {}
        for _ in range(6):
            optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
            if state:
                optimizer.load_state_dict(state)
            train(net, optimizer, batches(3))
            state = copy.deepcopy(optimizer.state_dict())

    assert rules(loop) == []


def test_silent_on_phases_with_other_settings() -> None:
    def loop() -> None:
        net = model()
        for lr in (0.1, 0.01, 0.001, 0.0001):
            train(net, torch.optim.Adam(net.parameters(), lr=lr), batches(4))

    assert rules(loop) == []


def test_silent_on_phases_with_other_parameters() -> None:
    def loop() -> None:
        net = model()
        for layers in (net[2:], net):
            train(net, torch.optim.Adam(layers.parameters()), batches(4))

    assert RULE not in rules(loop)


def test_silent_on_restarts_after_several_epochs() -> None:
    def loop() -> None:
        net, data = model(), loader(samples=48)
        for _ in range(3):
            optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
            for _ in range(2):
                train(net, optimizer, data)

    assert rules(loop) == []


def test_silent_on_tasks_with_data_of_their_own() -> None:
    def loop() -> None:
        net = model()
        for _ in range(4):
            train(net, torch.optim.Adam(net.parameters(), lr=0.01), loader(samples=48))

    assert rules(loop) == []


def test_silent_on_the_second_of_two() -> None:
    def loop() -> None:
        net = model()
        for _ in range(2):
            train(net, torch.optim.Adam(net.parameters(), lr=0.01), batches(4))

    assert rules(loop) == []


def test_parts_that_are_trained_in_turn_are_info() -> None:
    def loop() -> None:
        net = model()
        for _ in range(4):
            train(net, torch.optim.Adam(net[0].parameters(), lr=0.01), batches(4))
            train(net, torch.optim.Adam(net[2].parameters(), lr=0.01), batches(4))

    assert [each.severity for each in find(loop) if each.rule == RULE] == [Severity.INFO, Severity.INFO]


def test_silent_on_lbfgs() -> None:
    def loop() -> None:
        net = model()
        for x, y in batches(5):
            optimizer = torch.optim.LBFGS(net.parameters(), max_iter=2)

            def closure(x: torch.Tensor = x, y: torch.Tensor = y, optimizer: Any = optimizer) -> torch.Tensor:
                optimizer.zero_grad()
                loss = loss_of(net(x), y)
                loss.backward()
                return loss

            optimizer.step(closure)

    assert rules(loop) == []
