"""batch-cross-talk: found where samples see each other, silent where they do not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from loopkit import Confidence, Severity, watch
from tests.watched import find, line_of, rules


class Net(nn.Module):
    """Two layers with something between them."""

    def __init__(self, between: Callable[[Tensor], Tensor], inside: nn.Module | None = None) -> None:
        super().__init__()
        self.first = nn.Linear(6, 12)
        self.inside = inside if inside is not None else nn.Identity()
        self.second = nn.Linear(12, 1)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.between(self.inside(self.first(x))))
        return out


def train(net: nn.Module, features: Tensor | None = None, size: int = 8) -> None:
    features = torch.randn(32, 6) if features is None else features
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for x, y in DataLoader(TensorDataset(features, torch.randn(len(features), 1)), batch_size=size):
        optimizer.zero_grad()
        (net(x) - y).square().mean().backward()
        optimizer.step()


def viewed() -> None:
    train(Net(lambda h: h.view(12, -1).t()))


SNAPSHOTS = {"batch-cross-talk": viewed}


@pytest.mark.parametrize(
    "between",
    [lambda h: h.view(12, -1).t(), lambda h: h.softmax(0), lambda h: h - h.mean(0), lambda h: h.cumsum(0)],
)
def test_samples_that_see_each_other(between: Callable[[Tensor], Tensor]) -> None:
    (found,) = [each for each in find(lambda: train(Net(between)), probe=True) if each.rule == "batch-cross-talk"]
    assert (found.severity, found.confidence) == (Severity.ERROR, Confidence.PROBE)
    assert found.place is not None
    assert found.place.line == line_of(train, "net(x) - y")
    assert found.evidence["samples"] == 8


@pytest.mark.parametrize("inside", [nn.BatchNorm1d(12), nn.LayerNorm(12), nn.Dropout(0.5), nn.ReLU()])
def test_layers_that_keep_samples_apart_in_eval_mode(inside: nn.Module) -> None:
    assert "batch-cross-talk" not in rules(lambda: train(Net(torch.relu, inside)), probe=True)


def test_what_cannot_be_judged_is_said() -> None:
    for net, size, why in [
        (Net(lambda h: h + torch.rand(1)), 8, "differ"),
        (Net(lambda h: h.mean(0, keepdim=True)), 8, "not one row a sample"),
        (Net(torch.relu), 2, "fewer than three"),
    ]:
        with watch(skip=["console"], probe=True, select=["batch-cross-talk"]) as run:
            train(net, size=size)
        assert not run.findings
        assert any(why in reason for rule, reason in run.not_checked() if rule == "batch-cross-talk"), why


def test_a_graph_with_a_square_input_is_left_alone() -> None:
    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 1)

        def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
            out: Tensor = adjacency @ self.layer(x)
            return out

    def loop() -> None:
        net = Graph()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        for (x,) in DataLoader(TensorDataset(torch.randn(32, 6)), batch_size=8):
            optimizer.zero_grad()
            net(x, torch.rand(8, 8)).square().mean().backward()
            optimizer.step()

    assert "batch-cross-talk" not in rules(loop, probe=True)


def test_it_is_off_unless_asked_for() -> None:
    assert "batch-cross-talk" not in rules(viewed)


def test_a_model_that_cannot_be_copied_is_named_and_trains() -> None:
    net = Net(torch.relu)
    net.handle = torch.randn(3, requires_grad=True) * 2  # deepcopy refuses what is not a leaf
    with watch(skip=["console"], probe=True) as run:
        train(net)
    assert run.steps == 4
    assert any("cannot be copied" in why for rule, why in run.not_checked() if rule == "batch-cross-talk")
