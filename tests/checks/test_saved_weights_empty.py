"""saved-weights-empty: found where it is, silent on what looks like it."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from loopkit import Confidence, Severity
from tests.loops import adamw, batches, loss_of, model
from tests.watched import find, line_of

RULE = "saved-weights-empty"


def train(net: nn.Module) -> nn.Module:
    optimizer = adamw(net)
    for x, y in batches(2):
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()
    return net


def save(state: Any) -> None:
    torch.save(state, io.BytesIO())


def emptied() -> None:
    net = train(model())
    state = net.state_dict()
    state["2.weight"] = torch.empty(0)
    save(state)


SNAPSHOTS = {RULE: emptied}


def test_an_emptied_weight_is_a_proof() -> None:
    (finding,) = find(emptied, select=[RULE])
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.PROOF)
    assert finding.evidence["lost"] == ["2.weight"]
    assert finding.place is not None
    assert finding.place.line == line_of(save, "torch.save")


@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_in_a_checkpoint_are_looked_at(prefix: str) -> None:
    def loop() -> None:
        net = train(model())
        state = {prefix + name: torch.empty(0) for name in net.state_dict()}
        save({"model": state, "epoch": 1})

    (finding,) = find(loop, select=[RULE])
    assert len(finding.evidence["lost"]) == 4


class Holding(nn.Module):
    """Has a parameter and a buffer without elements."""

    def __init__(self) -> None:
        super().__init__()
        self.body = model()
        self.nothing = nn.Parameter(torch.empty(0))
        self.register_buffer("spare", torch.empty(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.body(x)
        return out


def whole() -> None:
    save(train(model()).state_dict())


def without() -> None:
    save({name: value for name, value in train(model()).state_dict().items() if "2" not in name})


def empty_in_the_model() -> None:
    save(train(Holding()).state_dict())


def of_something_else() -> None:
    train(model()).state_dict()
    save({"targets": torch.empty(0), "seen": {"targets": torch.empty(0)}})


@pytest.mark.parametrize("loop", [whole, without, empty_in_the_model, of_something_else])
def test_look_alikes_are_left_alone(loop: Callable[[], None]) -> None:
    assert find(loop, select=[RULE]) == []
