"""params-not-updated: found at the step, silent on everything that moves in the end."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from loopkit import Confidence, Severity
from tests.loops import batches, loss_of, model
from tests.watched import find, line_of, rules

RULE = "params-not-updated"


class Rule(torch.optim.Optimizer):
    """An update rule of the user's own; `way` is how it writes."""

    def __init__(self, parameters: Any, lr: float = 0.1, way: str = "add_", every: int = 1) -> None:
        super().__init__(parameters, {"lr": lr})
        self.way, self.every, self.count = way, every, 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.count += 1
        if self.count % self.every:
            return
        for group in self.param_groups:
            for p in group["params"]:
                if self.way == "rebind":
                    p = p - group["lr"] * p.grad
                elif self.way == "add":
                    p.data.add(p.grad, alpha=-group["lr"])
                else:
                    p.add_(p.grad, alpha=-group["lr"])


def train(net: torch.nn.Module, optimizer: torch.optim.Optimizer, count: int = 20) -> None:
    for x, y in batches(count):
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()


def to_a_copy() -> None:
    net = model()
    train(net, Rule(net.parameters(), way="rebind"))


SNAPSHOTS = {RULE: to_a_copy}


@pytest.mark.parametrize("way", ["rebind", "add"])
def test_found_at_the_step(way: str) -> None:
    def loop() -> None:
        net = model()
        train(net, Rule(net.parameters(), way=way))

    (finding,) = [each for each in find(loop) if each.rule == RULE]
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(train, "optimizer.step()")
    assert finding.evidence["steps"] == 16
    assert finding.count == 1


def test_found_at_the_end_of_a_short_run() -> None:
    def loop() -> None:
        net = model()
        train(net, Rule(net.parameters(), way="add"), 6)

    assert rules(loop) == [RULE]


@pytest.mark.parametrize(
    "name", ["SGD", "Adam", "AdamW", "RMSprop", "Adadelta", "Adagrad", "Adamax", "Rprop", "NAdam"]
)
def test_silent_on_torchs_own(name: str) -> None:
    def loop() -> None:
        net = model()
        train(net, getattr(torch.optim, name)(net.parameters(), lr=0.01))

    assert rules(loop) == []


def test_silent_on_fused() -> None:
    def loop() -> None:
        net = model()
        train(net, torch.optim.AdamW(net.parameters(), lr=0.01, fused=True))

    assert rules(loop) == []


@pytest.mark.parametrize("every", [3, 5])
def test_silent_on_one_that_moves_now_and_then(every: int) -> None:
    def loop() -> None:
        net = model()
        train(net, Rule(net.parameters(), every=every))

    assert rules(loop) == []


@pytest.mark.parametrize("lr", [0.0, 1e-12])
def test_silent_on_rates_that_move_nothing(lr: float) -> None:
    def loop() -> None:
        net = model()
        train(net, torch.optim.SGD(net.parameters(), lr=lr))

    assert RULE not in rules(loop)


def test_silent_on_a_warm_up_from_zero() -> None:
    def loop() -> None:
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 4))
        for x, y in batches(20):
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()
            scheduler.step()

    assert rules(loop) == []


def test_silent_where_the_gradient_is_zero() -> None:
    def loop() -> None:
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for x, y in batches(20):
            optimizer.zero_grad()
            (loss_of(net(x), y) * 0).backward()
            optimizer.step()

    assert RULE not in rules(loop)


def test_silent_where_weights_are_restored_after_each_step() -> None:
    def loop() -> None:
        net = model()
        start = {name: each.clone() for name, each in net.state_dict().items()}
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for x, y in batches(20):
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()
            net.load_state_dict(start)

    assert RULE not in rules(loop)
