"""params-not-in-optimizer: found where the optimizer is made, silent on what looks like it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loopkit import Confidence, Finding, Severity
from tests.loops import adamw, batches, loss_of, model
from tests.watched import find, line_of, rules

RULE = "params-not-in-optimizer"


class Net(nn.Module):
    """A body, a norm, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.tanh(self.norm(self.body(x))))
        return out


def train(
    net: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    count: int = 4,
    then: Callable[[], object] = int,
) -> None:
    for x, y in batches(count):
        loss_of(net(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        then()


def head_only() -> None:
    net = Net()
    optimizer = torch.optim.Adam(net.head.parameters(), lr=0.01)
    train(net, optimizer)


def used_up() -> None:
    body, head = nn.Linear(4, 8), nn.Linear(8, 2)
    given = body.parameters()
    assert sum(each.numel() for each in given) == 40
    groups: list[dict[str, Any]] = [{"params": given, "lr": 0.1}, {"params": head.parameters()}]
    optimizer = torch.optim.Adam(groups, lr=0.01)
    train(lambda x: head(torch.tanh(body(x))), optimizer)


SNAPSHOTS = {RULE: head_only, f"{RULE}-empty": used_up}


def only(found: list[Finding]) -> Finding:
    (finding,) = found
    assert finding.rule == RULE
    return finding


def test_found_where_the_optimizer_is_constructed() -> None:
    finding = only(find(head_only))
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(head_only, "optimizer = ")
    assert finding.places["backward"].line == line_of(train, "backward()")
    assert finding.subject == "Net"
    assert finding.evidence["first"] == "Net.body.weight"
    assert finding.evidence["parameters"] == 4


def test_found_for_an_empty_group_in_whatever_module() -> None:
    finding = only(find(used_up))
    assert finding.place is not None
    assert finding.place.line == line_of(used_up, "optimizer = ")
    assert "a parameter group of Adam is empty" in finding.seen
    assert "list(...)" in finding.remedy


def test_found_where_an_unfreezing_does_not_reach_the_optimizer() -> None:
    def loop() -> None:
        net = Net()
        net.body.requires_grad_(False)
        optimizer = torch.optim.Adam([each for each in net.parameters() if each.requires_grad], lr=0.01)
        train(net, optimizer)
        net.body.requires_grad_(True)
        train(net, optimizer)

    assert only(find(loop)).evidence["parameters"] == 2


def test_found_for_a_layer_that_is_added_later() -> None:
    def loop() -> None:
        net = nn.Sequential(nn.Linear(4, 2))
        optimizer = adamw(net)
        net.append(nn.Linear(2, 2))
        train(net, optimizer)

    assert only(find(loop)).evidence["first"] == "Sequential.1.weight"


def test_norms_alone_are_info() -> None:
    def loop() -> None:
        net = Net()
        train(net, torch.optim.Adam([*net.body.parameters(), *net.head.parameters()], lr=0.01))

    assert only(find(loop)).severity is Severity.INFO


def test_silent_where_several_optimizers_own_it() -> None:
    def loop() -> None:
        net = Net()
        first = torch.optim.SGD([*net.body.parameters(), *net.norm.parameters()], lr=0.1)
        train(net, torch.optim.Adam(net.head.parameters()), then=lambda: (first.step(), first.zero_grad()))

    assert rules(loop) == []


@pytest.mark.parametrize("frozen", [True, False])
def test_silent_where_a_group_is_added_later(frozen: bool) -> None:
    def loop() -> None:
        net = Net()
        net.norm.requires_grad_(False)
        net.body.requires_grad_(not frozen)
        optimizer = torch.optim.Adam(net.head.parameters(), lr=0.01)
        train(net, optimizer, 5, then=net.zero_grad)
        net.body.requires_grad_(True)
        optimizer.add_param_group({"params": list(net.body.parameters()), "lr": 0.001})
        train(net, optimizer, 1)

    assert RULE not in rules(loop)


def test_silent_where_another_optimizer_comes_to_own_it() -> None:
    def loop() -> None:
        net = Net()
        net.norm.requires_grad_(False)
        train(net, torch.optim.SGD(net.head.parameters(), lr=0.1), 5)
        net.zero_grad()
        train(net, torch.optim.SGD(net.body.parameters(), lr=0.1), 1)

    assert RULE not in rules(loop)


def test_silent_on_frozen_parts() -> None:
    def loop() -> None:
        net = Net()
        net.body.requires_grad_(False)
        net.norm.requires_grad_(False)
        train(net, torch.optim.Adam(net.head.parameters()))

    assert rules(loop) == []


class Adapted(nn.Module):
    """A frozen layer with a low-rank adapter."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(4, 2).requires_grad_(False)
        self.a = nn.Parameter(torch.randn(4, 1))
        self.b = nn.Parameter(torch.zeros(1, 2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + x @ self.a @ self.b
        return out


def test_silent_on_adapters() -> None:
    def loop() -> None:
        net = Adapted()
        train(net, torch.optim.Adam([net.a, net.b]))

    assert rules(loop) == []


def test_silent_on_a_teacher() -> None:
    def loop() -> None:
        student = model()
        teacher = copy.deepcopy(student)
        optimizer = adamw(student)
        for x, _ in batches():
            optimizer.zero_grad()
            loss_of(student(x), teacher(x)).backward()
            optimizer.step()

    assert RULE not in rules(loop)


def test_silent_where_parameters_are_updated_by_hand() -> None:
    def loop() -> None:
        net = Net()

        def by_hand() -> None:
            for each in [*net.body.parameters(), *net.norm.parameters()]:
                assert each.grad is not None
                each.data -= 0.1 * each.grad
                each.grad = None

        train(net, torch.optim.Adam(net.head.parameters()), then=by_hand)

    assert rules(loop) == []


def test_silent_on_an_empty_group_where_all_is_owned() -> None:
    def loop() -> None:
        net = model()
        groups: list[dict[str, Any]] = [{"params": net.parameters()}, {"params": [], "weight_decay": 0.0}]
        train(net, torch.optim.AdamW(groups))

    assert rules(loop) == []


def test_silent_on_an_optimizer_that_has_died() -> None:
    def loop() -> None:
        net = Net()
        train(net, adamw(net), 2)
        train(net, torch.optim.SGD(net.head.parameters(), lr=0.1))

    assert RULE not in rules(loop)
