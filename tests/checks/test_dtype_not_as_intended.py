"""dtype-not-as-intended: facts of precision."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from loopkit import Confidence, Severity
from tests.amp import half
from tests.loops import batches, model
from tests.watched import find, line_of, rules

RULE = "dtype-not-as-intended"


class Net(nn.Module):
    """A layer with parameters of a type of their own beside it."""

    def __init__(self, kind: torch.dtype, size: int = 2) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 2)
        self.shift = nn.Parameter(torch.zeros(size, dtype=kind))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x) + self.shift
        return out


def train(net: nn.Module, kind: torch.dtype = torch.float32, autocast: bool = False) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for x, y in batches():
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = (net(x.to(kind)) - y.to(torch.bfloat16 if autocast else kind)).square().mean()
        loss.backward()
        optimizer.step()


def half_loss() -> None:
    train(model(), autocast=True)


def double_shift() -> None:
    train(Net(torch.float64))


SNAPSHOTS = {RULE: double_shift, "dtype-not-as-intended-loss": half_loss}


@pytest.mark.parametrize(
    ("loop", "line", "words"),
    [
        (half_loss, "loss.backward()", "the loss sent backward is bfloat16"),
        (double_shift, "optimizer.step()", "are 2 float32, 1 float64"),
        (lambda: train(Net(torch.bfloat16)), "optimizer.step()", "are 2 float32, 1 bfloat16"),
    ],
)
def test_told_at_its_line(loop: Callable[[], None], line: str, words: str) -> None:
    (found,) = find(loop)
    assert (found.rule, found.severity, found.confidence) == (RULE, Severity.INFO, Confidence.FACT)
    assert found.place is not None
    assert found.place.line == line_of(train, line)
    assert words in found.seen


# -- what looks like it ----------------------------------------------------------------------------------


def test_silent_under_autocast_on_frozen_parts_on_scalars_and_on_a_loss_in_float32() -> None:
    def autocast() -> None:
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        for x, y in batches():
            optimizer.zero_grad()
            half(net, x, y, torch.bfloat16).backward()
            optimizer.step()

    def frozen() -> None:
        net = Net(torch.float64)
        net.shift.requires_grad_(False)
        train(net)

    assert rules(autocast) == []
    assert rules(frozen) == []
    assert rules(lambda: train(Net(torch.float64, size=1))) == []
    assert rules(lambda: train(model().to(torch.bfloat16), torch.bfloat16)) == []
    assert rules(lambda: train(model().double(), torch.float64)) == []
