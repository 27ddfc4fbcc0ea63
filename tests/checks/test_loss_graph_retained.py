"""loss-graph-retained: found where it is, silent on what looks like it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loopkit import Confidence, Severity
from tests.loops import adamw, batches, loss_of, model
from tests.watched import find, line_of, rules


def sum_of_losses() -> None:
    net = model()
    optimizer = adamw(net)
    total: Any = 0.0
    for x, y in batches(20):
        optimizer.zero_grad()
        loss = loss_of(net(x), y)
        loss.backward()
        optimizer.step()
        total += loss


SNAPSHOTS = {"loss-graph-retained": sum_of_losses}


def test_found_at_the_sum() -> None:
    (finding,) = find(sum_of_losses)
    assert finding.rule == "loss-graph-retained"
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(sum_of_losses, "total += loss")
    assert finding.places["backward"].line == line_of(sum_of_losses, "loss.backward()")
    assert finding.step == 16
    assert "all 5 losses looked at in the last 15 updates" in finding.seen


def _loop(keep: Callable[[list[Any], Tensor, Tensor], object], steps: int = 20, size: int | None = None) -> list[Any]:
    net = model()
    optimizer = adamw(net)
    kept: Any = [] if size is None else deque(maxlen=size)
    for x, y in batches(steps):
        optimizer.zero_grad()
        out = net(x)
        loss = loss_of(out, y)
        (loss / 1.0).backward()
        optimizer.step()
        keep(kept, loss, out)
    return [kept]


@pytest.mark.parametrize(
    "keep",
    [
        lambda kept, loss, out: kept.append(loss),
        lambda kept, loss, out: kept.append({"loss": loss}),
        lambda kept, loss, out: kept.append(out),
        lambda kept, loss, out: kept.append(loss * 4),
    ],
)
def test_found_however_it_is_kept(keep: Callable[[list[Any], Tensor, Tensor], object]) -> None:
    (finding,) = find(lambda: _loop(keep))
    assert finding.rule == "loss-graph-retained"


def test_found_in_a_helper_at_its_callers_line() -> None:
    def step(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(net(x), y)
        loss.backward()
        optimizer.step()
        return loss

    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        losses = []
        for x, y in batches(20):
            result = step(net, optimizer, x, y)
            losses.append(result)

    (finding,) = find(loop)
    assert finding.place is not None
    assert finding.place.line == line_of(loop, "losses.append")


def test_a_short_run_is_info() -> None:
    (finding,) = find(lambda: _loop(lambda kept, loss, out: kept.append(loss), steps=10))
    assert (finding.rule, finding.severity) == ("loss-graph-retained", Severity.INFO)


@pytest.mark.parametrize(
    "keep",
    [
        lambda kept, loss, out: kept.append(loss.item()),
        lambda kept, loss, out: kept.append(loss.detach()),
        lambda kept, loss, out: kept.append(out.detach()),
        lambda kept, loss, out: kept.__setitem__(slice(None), [loss]),
    ],
)
def test_silent_on(keep: Callable[[list[Any], Tensor, Tensor], object]) -> None:
    assert rules(lambda: _loop(keep, steps=40)) == []


def test_silent_on_a_cache_of_a_few() -> None:
    assert rules(lambda: _loop(lambda kept, loss, out: kept.append(loss), steps=40, size=3)) == []


def test_silent_on_losses_that_are_summed_before_one_backward() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for _ in range(20):
            optimizer.zero_grad()
            total = torch.zeros(())
            for x, y in batches(4):
                total = total + loss_of(net(x), y)
            total.backward()
            optimizer.step()

    assert rules(loop) == []


def test_silent_on_a_graph_that_is_used_again_and_again() -> None:
    def loop() -> None:
        base, net = torch.ones(4, 4, requires_grad=True), model()
        cached = base * 2
        optimizer = adamw(net)
        for _, y in batches(20):
            optimizer.zero_grad()
            loss_of(net(cached), y).backward(retain_graph=True)
            optimizer.step()

    assert "loss-graph-retained" not in rules(loop)
