"""The weight that is read from a window's graphs is the one its gradient has, measured against the whole batch."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import loopkit
from loopkit import Run, Update, Window, Windows, hookimpl


@dataclass(frozen=True)
class Plan:
    """Windows of `k` micro-batches of `rows` rows, a tail of fewer, and how each loss is divided."""

    k: int
    tail: int
    rows: int
    divided: str  # "", "k", "twice", "size"
    loss: str  # "mse", "mean", "sum": of cross-entropy, the sum over the window's count
    spread: bool  # two terms


plans = st.builds(
    Plan,
    k=st.integers(2, 5),
    tail=st.integers(0, 4),
    rows=st.integers(2, 4),
    divided=st.sampled_from(["", "k", "twice", "size"]),
    loss=st.sampled_from(["mse", "mean", "sum"]),
    spread=st.booleans(),
)


def loss_of(plan: Plan, out: Tensor, y: Tensor, size: int) -> Tensor:
    if plan.loss == "mse":
        return nn.functional.mse_loss(out, y)
    if plan.loss == "mean":
        return nn.functional.cross_entropy(out, y.argmax(1))
    # The window's count stands in the place of the micro-batch's own: already divided by the window's length.
    return nn.functional.cross_entropy(out, y.argmax(1), reduction="sum") / (plan.rows * size)


def divisor(plan: Plan, size: int) -> float:
    return {"": 1, "k": plan.k, "twice": plan.k**2, "size": size}[plan.divided]


class Reads:
    """Keeps every window; `update_finished` comes for new shapes, and all shapes of these runs are new."""

    def __init__(self) -> None:
        self.seen: list[Window] = []

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> None:
        self.seen += run.instrument(Windows).of(update)


def gradient(net: nn.Linear) -> Tensor:
    assert net.weight.grad is not None
    return net.weight.grad.clone()


def whole_batch(plan: Plan, net: nn.Linear, x: Tensor, y: Tensor) -> Tensor:
    out = net(x)
    loss = nn.functional.mse_loss(out, y) if plan.loss == "mse" else nn.functional.cross_entropy(out, y.argmax(1))
    (found,) = torch.autograd.grad(loss, net.weight)
    return found


@settings(max_examples=60, deadline=None)
@given(plans)
def test_the_stated_weight_is_the_measured_one(plan: Plan) -> None:
    sizes = [plan.k, plan.k, *([plan.tail] if 0 < plan.tail < plan.k else [])]
    net = nn.Linear(4, 3).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    measured = []
    reads = Reads()
    with loopkit.watch(plugins=[reads], autoload=False):
        for size in sizes:
            x, y = torch.randn(size * plan.rows, 4).double(), torch.randn(size * plan.rows, 3).double()
            right = whole_batch(plan, net, x, y)
            optimizer.zero_grad()
            for a, b in zip(x.split(plan.rows), y.split(plan.rows), strict=True):
                loss = loss_of(plan, net(a.clone()), b, size)
                if plan.spread:
                    loss = loss + 0 * net.weight.square().mean()
                (loss / divisor(plan, size)).backward()
            found = gradient(net)
            measured.append(float((found * right).sum() / right.square().sum()))
            assert torch.allclose(found, measured[-1] * right)
            optimizer.step()
    stated = {window.size: window.weights() for window in reads.seen}
    for size, weight in zip(sizes, measured, strict=True):
        assert max(abs(each) for each in stated[size] if each is not None) == pytest.approx(weight, rel=1e-6)
