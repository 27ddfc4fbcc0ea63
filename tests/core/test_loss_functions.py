"""What is read of loss functions: where they were called, and nothing that reading would disturb."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import loopkit
from loopkit.making import Making
from tests.losses import graph_of, loop_of
from tests.watched import line_of

F = nn.functional
LABELS = torch.arange(8) % 3


def _after_a_teacher(net: nn.Module, x: Tensor) -> Tensor:
    out = net(x)
    with torch.no_grad():
        target = net(x).softmax(1)
    return F.cross_entropy(out, target)


def _in_a_model(net: nn.Module, x: Tensor) -> Tensor:
    made: Tensor = net(x)
    return made


class WithLoss(nn.Module):
    """Makes its loss itself."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.cross_entropy(self.head(x), LABELS)


def test_the_call_is_known_after_a_forward_without_gradients() -> None:
    (node,) = graph_of(_after_a_teacher, lambda: nn.Linear(4, 3))
    assert node.site is not None
    assert node.site.place.line == line_of(_after_a_teacher, "F.cross_entropy")


def test_the_call_is_known_inside_a_model() -> None:
    (node,) = graph_of(_in_a_model, WithLoss)
    assert node.site is not None
    assert node.site.place.line == line_of(WithLoss, "F.cross_entropy")
    assert node.site.chain[1].line == line_of(_in_a_model, "net(x)")


def test_nothing_that_hooks_have_packed_is_asked_for() -> None:
    unpacked: list[str] = []

    def unpack(value: Tensor) -> Tensor:
        unpacked.append("unpacked")
        return value

    def loss(net: nn.Module, x: Tensor) -> Tensor:
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack):
            made: Tensor = (
                F.mse_loss(net(x).relu() * torch.rand(8, 1), torch.randn(8, 1)) + ((net(x) - LABELS) ** 2).mean()
            )
        assert not unpacked
        return made

    nodes = graph_of(loss)
    count = len(unpacked)
    unpacked.clear()
    loop_of(loss, steps=1)()
    assert len(unpacked) == count, "the watch unpacked something of its own"
    assert all(node.spread is None and node.negative is None for node in nodes)


def test_what_cannot_be_read_costs_these_checks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOOPKIT_RAISE")

    def fail(*_: Any) -> None:
        raise ValueError("an unheard-of tensor")

    monkeypatch.setattr("loopkit.lossfunctions.read", fail)
    with loopkit.watch(skip=["console"]) as run:
        loop_of(lambda net, x: net(x).square().mean())()
    assert run.steps == 4
    assert any("could not be read" in why and "unheard-of" in why for _, why in run.not_checked())


def test_an_update_whose_graph_is_not_walked_hears_no_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    called = Making.called

    def hear(self: Making, kind: str, *rest: Any) -> None:
        heard.append(kind)
        called(self, kind, *rest)

    monkeypatch.setattr(Making, "called", hear)
    with loopkit.watch(skip=["console"]):
        loop_of(lambda net, x: F.mse_loss(net(x), x[:, :1]), steps=16)()
    assert len(heard) == 6  # updates 1 to 4, 8 and 16
