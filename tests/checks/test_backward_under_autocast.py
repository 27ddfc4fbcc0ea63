"""backward-under-autocast: a warning where float32 operations get derivatives in half precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from loopkit import Confidence, Severity
from tests.loops import batches, loss_of, model
from tests.watched import find, line_of, rules

RULE = "backward-under-autocast"


def float32_head() -> None:
    net, head = model(), nn.Linear(2, 2)
    optimizer = torch.optim.SGD([*net.parameters(), *head.parameters()], lr=0.01)
    for x, y in batches():
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = net(x)
            with torch.autocast("cpu", enabled=False):
                scores = head(features.float())
            loss = loss_of(scores, y)
            loss.backward()
        optimizer.step()


def all_cast() -> None:
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for x, y in batches():
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(net(x).float(), y)
            loss.backward()
        optimizer.step()


SNAPSHOTS = {RULE: float32_head, "backward-under-autocast-all-cast": all_cast}


def test_a_warning_where_the_forward_kept_float32() -> None:
    (found,) = find(float32_head)
    assert (found.rule, found.severity, found.confidence) == (RULE, Severity.WARNING, Confidence.PROOF)
    assert found.place is not None
    assert found.place.line == line_of(float32_head, "loss.backward()")
    assert found.evidence["float32_products"] == 1


def test_the_derivative_is_really_in_half_precision_there() -> None:
    weight = torch.randn(64, 64, requires_grad=True)
    x = torch.randn(64, 64)
    grads: list[Any] = []
    for enabled in (False, True):
        weight.grad = None
        loss = (x @ weight).square().mean()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss.backward()
        grads.append(weight.grad)
    assert not torch.equal(*grads)


def test_only_told_where_all_was_cast() -> None:
    (found,) = find(all_cast)
    assert (found.rule, found.severity) == (RULE, Severity.INFO)


# -- what looks like it ----------------------------------------------------------------------------------


def test_silent_where_the_context_ends_before_backward() -> None:
    def loop() -> None:
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        for x, y in batches():
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = loss_of(net(x).float(), y)
            loss.backward()
            optimizer.step()

    assert rules(loop) == []


@pytest.mark.filterwarnings("ignore:Using backward")
def test_silent_on_a_penalty_and_where_autocast_is_off() -> None:
    def penalty() -> None:
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        for x, y in batches():
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss_of(net(x).float(), y).backward(create_graph=True)
            optimizer.step()

    def disabled() -> None:
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        for x, y in batches():
            optimizer.zero_grad()
            with torch.autocast("cpu", enabled=False):
                loss_of(net(x), y).backward()
            optimizer.step()

    assert RULE not in rules(penalty)
    assert rules(disabled) == []
