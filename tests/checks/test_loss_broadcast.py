"""loss-broadcast: a loss over pairs that nobody meant is found; pairs that are meant are left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loopkit import Confidence, Finding, Severity
from loopkit_plugins.checks.loss.loss_broadcast import LossBroadcast
from tests.losses import loop_of
from tests.watched import find, line_of

RULE = "loss-broadcast"
F = nn.functional
Y = torch.randn(8)
pytestmark = pytest.mark.filterwarnings("ignore:Using a target size")


def found(loop: Callable[[], Any]) -> list[Finding]:
    """What this rule says of a loop."""
    return [each for each in find(loop, autoload=False, plugins=[LossBroadcast]) if each.rule == RULE]


def written_by_hand() -> None:
    net = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        loss = ((net(torch.randn(8, 4)) - Y) ** 2).mean()
        loss.backward()
        optimizer.step()


SNAPSHOTS = {RULE: written_by_hand}


def of(loss: Callable[[Tensor], Tensor], **options: Any) -> list[Finding]:
    """What is said of this loss of a linear layer's scores of shape (8, 1)."""
    return found(loop_of(lambda net, x: loss(net(x)), **options))


def test_found_with_the_shapes() -> None:
    (finding,) = found(written_by_hand)
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(written_by_hand, "backward()")  # nothing else was heard of the loss
    assert "(8, 1) meets a target of shape (8,)" in finding.seen
    assert "64 pairs, not of 8" in finding.seen
    assert finding.evidence["result"] == [8, 8]


def _mse(out: Tensor) -> Tensor:
    return F.mse_loss(out, Y)


def test_found_where_the_function_is_called() -> None:
    (finding,) = of(_mse)
    assert finding.place is not None
    assert finding.place.line == line_of(_mse, "mse_loss")


@pytest.mark.parametrize(
    "loss",
    [
        lambda out: F.mse_loss(out.squeeze(1), Y.view(-1, 1)),
        lambda out: F.l1_loss(out, Y),
        lambda out: F.smooth_l1_loss(out, Y, reduction="sum"),
        lambda out: F.huber_loss(out, Y) / 2,
        lambda out: (Y - out).abs().mean(),
        lambda out: (Y - out).pow(2).sum() / 8,
        lambda out: torch.square(out.squeeze(1) - Y.view(-1, 1)).mean() + out.square().mean(),
        lambda out: ((out - Y) * (out - Y)).mean().sqrt(),
        lambda out: -(out.sigmoid().log() * Y).mean(),
        lambda out: -(Y * out).sum() / 8,
        lambda out: (0.5 * (out - Y) ** 2 * torch.rand(8)).mean(),
    ],
)
def test_found_in_all_forms(loss: Callable[[Tensor], Tensor]) -> None:
    (finding,) = of(loss)
    assert finding.evidence["result"] == [8, 8]


def test_the_shape_of_each_side() -> None:
    (finding,) = of(lambda out: F.mse_loss(out.squeeze(1), Y.view(-1, 1)))
    assert (finding.evidence["prediction"], finding.evidence["target"]) == ([8], [8, 1])
    assert "squeeze(1) the target" in finding.remedy


ROWS = torch.rand(8, 8)


@pytest.mark.parametrize(
    "loss",
    [
        lambda out: F.mse_loss(out, Y.view(-1, 1)),
        lambda out: ((out.squeeze(1) - Y) ** 2).mean(),
        lambda out: ((out - Y.mean()) ** 2).mean(),
        lambda out: ((out - ROWS) ** 2).mean(),
        lambda out: (out * ROWS).mean(),
        lambda out: ((out - torch.tensor(0.5)) ** 2).mean(),
        lambda out: ((out - out.T) ** 2).mean(),
        lambda out: F.relu(1 - (out - out.T)).mean(),
        lambda out: ((out.squeeze(1)[:, None] - Y[None]) ** 2).mean(),
        lambda out: ((out.squeeze(1).view(-1, 1) - out.squeeze(1)) ** 2).mean(),
        lambda out: 2 * (out - Y[None]).abs().mean() - (out - out.T).abs().mean(),
        lambda out: torch.exp(-((out - Y[None]) ** 2)).mean(),
        lambda out: F.mse_loss(out.squeeze(1).unsqueeze(1), Y.unsqueeze(0)),
        lambda out: ((out - Y) ** 2 * torch.eye(8)).sum() / 8,
    ],
)
def test_silent(loss: Callable[[Tensor], Tensor]) -> None:
    assert of(loss) == []


def test_silent_about_weights_and_many_outputs() -> None:
    target, weight = torch.randn(8, 3), torch.rand(3)
    assert of(lambda out: ((out - target) ** 2 * weight).mean(), model=lambda: nn.Linear(4, 3)) == []
    assert of(lambda out: (weight * out).mean(), model=lambda: nn.Linear(4, 3)) == []


def test_silent_about_a_batch_of_one() -> None:
    assert of(lambda out: ((out - Y[:1]) ** 2).mean(), make=lambda: torch.randn(1, 4)) == []


def test_silent_about_pairs_of_two_embeddings() -> None:
    def loss(net: nn.Module, x: Tensor) -> Tensor:
        left, right = net(x), net(x.flip(0))
        pairs: Tensor = ((left[:, None] - right[None]) ** 2).sum(-1).mean()
        return pairs

    assert found(loop_of(loss, lambda: nn.Linear(4, 1))) == []


def test_found_between_two_outputs() -> None:
    def loss(net: nn.Module, x: Tensor) -> Tensor:
        value, other = net(x), net(x.flip(0)).squeeze(1)
        return F.mse_loss(value, other)

    assert len(found(loop_of(loss))) == 1
