"""degenerate-init: found where units stay equal, silent where the first steps part them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loopkit import Confidence, Severity
from tests.loops import batches, loader, loss_of, model
from tests.watched import find, line_of, rules

RULE = "degenerate-init"


def train(net: nn.Module, count: int = 10, optimizer: torch.optim.Optimizer | None = None) -> None:
    optimizer = optimizer or torch.optim.AdamW(net.parameters(), lr=0.01)
    for x, y in batches(count):
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()


def constant(net: nn.Module, value: float = 0.1) -> nn.Module:
    for each in net.modules():
        if isinstance(each, (nn.Linear, nn.Conv1d)):
            nn.init.constant_(each.weight, value)
            nn.init.zeros_(each.bias)  # type: ignore[arg-type]
    return net


def all_alike() -> None:
    train(constant(model()))


SNAPSHOTS = {RULE: all_alike}


def test_found_at_the_backward() -> None:
    (finding,) = find(all_alike)
    assert finding.rule == RULE
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(train, "backward()")
    assert finding.subject == "Sequential.0.weight"
    assert finding.evidence["units"] == 8


class Conv(nn.Module):
    """Channels, then their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 6, 3, padding=1)
        self.out = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(torch.tanh(self.conv(x[:, None])).mean(-1))
        return out


def test_found_for_a_convolution() -> None:
    assert [each.subject for each in find(lambda: train(constant(Conv())))] == ["Conv.conv.weight"]


def test_found_where_all_begin_at_zero_and_stay_there() -> None:
    (finding,) = find(lambda: train(constant(model(), 0.0), 20))
    assert finding.rule == RULE
    assert "Sequential.0.weight, Sequential.2.weight began at 0" in finding.seen


def test_silent_where_one_layer_waits_for_its_loss() -> None:
    def loop() -> None:
        net, extra = model(), nn.Linear(4, 3)
        constant(extra, 0.0)
        optimizer = torch.optim.SGD([*net.parameters(), *extra.parameters()], lr=0.1)
        for number, (x, y) in enumerate(batches(40)):
            optimizer.zero_grad()
            (loss_of(net(x), y) + (number >= 36) * (extra(x) - 1).pow(2).mean()).backward()
            optimizer.step()

    assert rules(loop) == []


def test_found_in_short_epochs() -> None:
    def loop() -> None:
        net = constant(model())
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
        data = loader(samples=12)
        for _ in range(6):
            for x, y in data:
                optimizer.zero_grad()
                loss_of(net(x), y).backward()
                optimizer.step()

    assert rules(loop) == [RULE]


def test_a_parametrized_layer_is_not_asked_for_its_weight() -> None:
    def trained(watched: bool) -> Tensor:
        torch.manual_seed(0)
        net = model()
        torch.nn.utils.parametrizations.spectral_norm(net[0])
        if watched:
            assert rules(lambda: train(net)) == []
        else:
            train(net)
        layer: Any = net[0]
        u: Tensor = layer.parametrizations.weight[0]._u
        return u

    assert torch.equal(trained(False), trained(True))


def test_silent_on_the_usual() -> None:
    assert rules(lambda: train(model())) == []


def test_silent_where_only_the_last_layer_begins_at_zero() -> None:
    def loop() -> None:
        net = model()
        constant(net[2], 0.0)
        train(net)

    assert rules(loop) == []


class Residual(nn.Module):
    """A branch that begins as nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(4, 4)
        self.last = nn.Linear(4, 4)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x + self.last(torch.tanh(self.inside(x))))
        return out


def test_silent_on_a_branch_that_begins_at_zero() -> None:
    assert rules(lambda: train(Residual())) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net[0].requires_grad_(False),
        lambda net: net.insert(1, nn.Dropout(0.5)),
        lambda net: nn.init.normal_(net[2].weight),
    ],
    ids=["frozen", "dropout", "random next layer"],
)
def test_silent_where_it_does_no_harm(change: Callable[[nn.Sequential], object]) -> None:
    def loop() -> None:
        net = model()
        constant(net)
        change(net)
        train(net)

    assert RULE not in rules(loop)


def test_silent_on_a_layer_with_one_unit_and_on_embeddings() -> None:
    def loop() -> None:
        table, head = nn.Embedding(4, 3), nn.Linear(3, 1)
        nn.init.ones_(table.weight)
        nn.init.ones_(head.weight)
        optimizer = torch.optim.AdamW([*table.parameters(), *head.parameters()], lr=0.1, weight_decay=0.1)
        for _ in range(10):
            optimizer.zero_grad()
            head(table(torch.tensor([1, 2]))).mean().backward()
            optimizer.step()

    assert rules(loop) == []


def test_silent_on_a_short_run() -> None:
    assert rules(lambda: train(constant(model()), 6)) == []


def test_silent_where_nothing_moves() -> None:
    def loop() -> None:
        net = constant(model())
        train(net, optimizer=torch.optim.SGD(net.parameters(), lr=0.0))

    assert RULE not in rules(loop)
