"""optimizer-state-misaligned: found where it is, silent on what looks like it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from loopkit import Confidence, Finding, Severity
from tests.loops import batches, loss_of, model
from tests.watched import find, line_of, rules

RULE = "optimizer-state-misaligned"
Make = Callable[[Any], torch.optim.Optimizer]


def train(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for x, y in batches(3):
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()


def reordered(make: Make = torch.optim.AdamW, names: bool = False, turn: bool = True) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)) if names else model()
    given = list(net.named_parameters()) if names else list(net.parameters())
    first = make(given)
    train(net, first)
    second = make(given[::-1] if turn else given)
    second.load_state_dict(first.state_dict())


def swapped_by_name() -> None:
    net = nn.ModuleList([nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)])
    first = torch.optim.AdamW(net.named_parameters())
    for x, _ in batches(3):
        first.zero_grad()
        net[1](net[0](x)).sum().backward()
        first.step()
    second = torch.optim.AdamW(reversed(list(net.named_parameters())))
    second.load_state_dict(first.state_dict())


SNAPSHOTS = {RULE: reordered, f"{RULE}-names": swapped_by_name}


def one(function: Callable[[], None]) -> Finding:
    (finding,) = find(function, select=[RULE])
    return finding


def test_found_by_shape_where_it_is_loaded() -> None:
    finding = one(reordered)
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(reordered, "load_state_dict")
    assert "4 of them: exp_avg of shape [8, 4] on parameter 0 of shape [2]" in finding.seen


@pytest.mark.parametrize(
    "make",
    [
        functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        torch.optim.RMSprop,
        torch.optim.Adagrad,
        torch.optim.Adadelta,
        torch.optim.Adamax,
    ],
)
def test_found_with(make: Make) -> None:
    assert one(functools.partial(reordered, make)).severity is Severity.ERROR


def test_found_by_name_where_all_shapes_fit() -> None:
    assert "1.weight has that of 0.weight" in one(swapped_by_name).seen


class Factored(torch.optim.Optimizer):
    """Keeps a mean of each row, under a name that torch's own use for something else."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.01})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for each in group["params"]:
                self.state[each]["exp_avg"] = each.grad.mean(-1)
                each.data.sub_(0.01 * each.grad)


@pytest.mark.parametrize(
    "make",
    [
        torch.optim.AdamW,
        torch.optim.Adafactor,
        torch.optim.ASGD,
        torch.optim.Rprop,
        functools.partial(torch.optim.AdamW, amsgrad=True, foreach=False),
        functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        Factored,
    ],
)
@pytest.mark.parametrize("names", [False, True])
def test_a_state_of_the_same_order_is_left_alone(make: Make, names: bool) -> None:
    assert RULE not in rules(functools.partial(reordered, make, names=names, turn=False))
