"""eval-builds-graph: found where it is, silent on what looks like it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from loopkit import Confidence, Severity
from tests.loops import adamw, batches, loss_of, model
from tests.watched import find, line_of, rules


def epoch(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    net.train()
    for x, y in batches(4):
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()


def without_no_grad() -> None:
    net = model()
    optimizer = adamw(net)
    for _ in range(2):
        epoch(net, optimizer)
        net.eval()
        for x, y in batches(3):
            loss_of(net(x), y).item()


SNAPSHOTS = {"eval-builds-graph": without_no_grad}


def test_found_where_eval_is_called() -> None:
    (finding,) = find(without_no_grad)
    assert finding.rule == "eval-builds-graph"
    assert (finding.severity, finding.confidence) == (Severity.INFO, Confidence.FACT)
    assert finding.place is not None
    assert finding.place.line == line_of(without_no_grad, "net.eval()")
    assert "3 forward passes" in finding.seen
    assert finding.step == 4


def _run(evaluate: Callable[[nn.Module], Any], net: nn.Module | None = None) -> Callable[[], None]:
    def loop() -> None:
        inner = net if net is not None else model()
        optimizer = adamw(inner)
        for _ in range(2):
            epoch(inner, optimizer)
            inner.eval()
            evaluate(inner)

    return loop


def no_grad(net: nn.Module) -> None:
    with torch.no_grad():
        for x, _ in batches(3):
            net(x)


def attack(net: nn.Module) -> None:
    for x, y in batches(3):
        x.requires_grad_()
        loss_of(net(x), y).backward()
        net.zero_grad()


def once(net: nn.Module) -> None:
    net(torch.randn(4, 4))


def mixed(net: nn.Module) -> None:
    no_grad(net)
    once(net)
    once(net)


@pytest.mark.parametrize("evaluate", [no_grad, attack, once, mixed])
def test_silent_on(evaluate: Callable[[nn.Module], Any]) -> None:
    assert "eval-builds-graph" not in rules(_run(evaluate))


def test_silent_on_a_model_that_nobody_trains_and_before_training() -> None:
    def loop() -> None:
        net, other = model(), model()
        optimizer = adamw(net)
        net.eval()
        once(net)
        once(net)
        epoch(net, optimizer)
        other.eval()
        once(other)
        once(other)
        other.train()

    assert "eval-builds-graph" not in rules(loop)
