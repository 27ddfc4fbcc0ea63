"""unregistered-params: found where it is, silent on what looks like it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loopkit import Confidence, Severity
from tests.loops import adamw, loader, loss_of
from tests.watched import find, line_of, rules


class Net(nn.Module):
    """A stem, layers that a plain container holds, a head."""

    def __init__(self, kind: str = "list") -> None:
        super().__init__()
        self.stem = nn.Linear(4, 8)
        layers = [nn.Linear(8, 8) for _ in range(3)]
        self.layers: Any = {
            "list": layers,
            "tuple": tuple(layers),
            "dict": dict(zip("abc", layers, strict=True)),
            "nested": [layers[:1], [layers[1:]]],
            "registered": nn.ModuleList(layers),
        }[kind]
        self.head = nn.Linear(8, 2)

    def flat(self) -> list[nn.Module]:
        if isinstance(self.layers, dict):
            return list(self.layers.values())
        if isinstance(self.layers[0], list):
            return [*self.layers[0], *self.layers[1][0]]
        return list(self.layers)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.flat():
            x = torch.tanh(layer(x))
        out: Tensor = self.head(x)
        return out


def train(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for x, y in loader():
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()


def layers_in_a_list() -> None:
    net = Net()
    optimizer = adamw(net)
    for x, y in loader():
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()


SNAPSHOTS = {"unregistered-params": layers_in_a_list}


def test_found_at_the_backward_with_its_name() -> None:
    (finding,) = find(layers_in_a_list)
    assert finding.rule == "unregistered-params"
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(layers_in_a_list, "backward()")
    assert finding.subject == "Net.layers"
    assert "6 parameters (216 numbers) in Net.layers" in finding.seen
    assert finding.evidence["first"] == "Net.layers[0].weight"
    assert finding.step == 3  # a run of three updates: said at its end


@pytest.mark.parametrize(
    ("kind", "first"), [("tuple", "[0].weight"), ("dict", "['a'].weight"), ("nested", "[0][0].weight")]
)
def test_found_in_any_plain_container(kind: str, first: str) -> None:
    def loop() -> None:
        net = Net(kind)
        train(net, adamw(net))

    (finding,) = find(loop)
    assert finding.evidence["first"] == f"Net.layers{first}"


class Block:
    """Should be a module."""

    def __init__(self) -> None:
        self.linear = nn.Linear(4, 4)


class Forgetful(nn.Module):
    """Its blocks are no modules."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = [Block(), Block()]
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block.linear(x)
        out: Tensor = self.head(x)
        return out


def test_found_where_a_class_that_holds_layers_is_no_module() -> None:
    def loop() -> None:
        net = Forgetful()
        train(net, adamw(net))

    (finding,) = find(loop)
    assert finding.subject == "Forgetful.blocks"
    assert finding.evidence["first"] == "Forgetful.blocks[0].linear.weight"


class Inner(nn.Module):
    """A registered block with bare parameters in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = [nn.Parameter(torch.randn(4)) for _ in range(2)]
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(x * self.weights[0] + self.weights[1])
        return out


def test_found_for_bare_parameters_in_a_submodule() -> None:
    def loop() -> None:
        net = nn.Sequential(nn.Linear(4, 4), Inner())
        train(net, adamw(net))

    (finding,) = find(loop)
    assert finding.subject == "Sequential.1.weights"
    assert "2 parameters (8 numbers)" in finding.seen


def test_silent_on_a_module_list() -> None:
    def loop() -> None:
        net = Net("registered")
        train(net, adamw(net))

    assert rules(loop) == []


def test_silent_where_the_optimizer_was_given_them() -> None:
    def loop() -> None:
        net = Net()
        train(net, torch.optim.Adam([*net.parameters(), *(p for each in net.layers for p in each.parameters())]))

    assert rules(loop) == []


def test_silent_on_frozen_layers() -> None:
    def loop() -> None:
        net = Net()
        for layer in net.layers:
            layer.requires_grad_(False)
        train(net, adamw(net))

    assert rules(loop) == []


@pytest.mark.parametrize("way", ["in place", "data"])
def test_silent_where_they_are_updated_by_hand(way: str) -> None:
    def loop() -> None:
        net = Net()
        optimizer = adamw(net)
        for x, y in loader():
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()
            for parameter in (p for each in net.layers for p in each.parameters()):
                if way == "data":
                    parameter.data -= 0.1 * parameter.grad
                else:
                    with torch.no_grad():
                        parameter -= 0.1 * parameter.grad
                parameter.grad = None

    assert rules(loop) == []


class Distilled(nn.Module):
    """Hides its teacher in a list, so that it is neither saved nor trained."""

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Linear(4, 2)
        self.hidden = [nn.Linear(4, 2).eval()]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.student(x) - self.hidden[0](x)
        return out


def test_silent_on_a_teacher_that_is_hidden_on_purpose() -> None:
    def loop() -> None:
        net = Distilled()
        train(net, adamw(net))

    assert rules(loop) == []


def test_silent_on_an_optimizer_that_has_died() -> None:
    def loop() -> None:
        net = Net()
        train(net, torch.optim.SGD([p for each in net.layers for p in each.parameters()], lr=0.1))
        train(net, adamw(net))

    assert rules(loop) == []
