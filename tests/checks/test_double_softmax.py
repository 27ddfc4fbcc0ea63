"""double-softmax: probabilities in a loss that takes scores are found; nothing else is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loopkit import Confidence, Finding, Severity
from loopkit_plugins.checks.loss.double_softmax import DoubleSoftmax
from tests.losses import graph_of, loop_of
from tests.watched import find, line_of

RULE = "double-softmax"
CLASSES = 5
F = nn.functional
LABELS = torch.arange(8) % CLASSES


def found(loop: Callable[[], Any]) -> list[Finding]:
    """What this rule says of a loop."""
    return [each for each in find(loop, autoload=False, plugins=[DoubleSoftmax]) if each.rule == RULE]


def softmax_in_the_model() -> None:
    net = nn.Sequential(nn.Linear(4, CLASSES), nn.Softmax(dim=1))
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        loss = criterion(net(torch.randn(8, 4)), LABELS)
        loss.backward()
        optimizer.step()


SNAPSHOTS = {RULE: softmax_in_the_model}


def of(loss: Callable[[Tensor], Tensor], outputs: int = CLASSES) -> list[Finding]:
    """What is said of this loss of a linear layer's scores."""
    return found(loop_of(lambda net, x: loss(net(x)), lambda: nn.Linear(4, outputs)))


def test_found_where_the_loss_is_made() -> None:
    (finding,) = found(softmax_in_the_model)
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(softmax_in_the_model, "criterion(net")
    assert finding.places["backward"].line == line_of(softmax_in_the_model, "backward()")
    assert finding.evidence["classes"] == CLASSES
    assert finding.step == 1


def test_the_lowest_loss_it_names_is_that_of_a_perfect_prediction() -> None:
    (finding,) = found(softmax_in_the_model)
    perfect = F.cross_entropy(F.one_hot(LABELS, CLASSES).float(), LABELS)
    assert finding.evidence["lowest_loss"] == pytest.approx(perfect.item(), abs=1e-3)
    assert f"{perfect.item():.2f}" in finding.why
    assert f"{math.log(CLASSES):.2f}" in finding.why


@pytest.mark.parametrize(
    "loss",
    [
        lambda out: F.nll_loss(F.log_softmax(out.softmax(-1), -1), LABELS),
        lambda out: F.cross_entropy(out.softmax(1).double(), LABELS),
        lambda out: F.cross_entropy(out.softmax(1), LABELS, label_smoothing=0.1),
        lambda out: F.cross_entropy(out.softmax(1), LABELS, weight=torch.rand(CLASSES), reduction="sum"),
        lambda out: F.cross_entropy(out.softmax(1), LABELS, reduction="none").mean() / 2 + out.square().mean(),
        lambda out: F.cross_entropy(out.view(2, 4, -1).softmax(2).flatten(0, 1), LABELS),
        lambda out: F.cross_entropy(out.view(2, 4, -1).softmax(2).transpose(1, 2), LABELS.view(2, 4)),
        lambda out: F.cross_entropy(out.view(2, 4, -1).softmax(2)[:, 1:].reshape(-1, CLASSES), LABELS[:6]),
    ],
)
def test_found_in_all_forms(loss: Callable[[Tensor], Tensor]) -> None:
    (finding,) = of(loss)
    assert finding.severity is Severity.ERROR


@pytest.mark.parametrize(
    "loss",
    [
        lambda out: F.cross_entropy(out.softmax(1), F.one_hot(LABELS, CLASSES).float()),
        lambda out: F.kl_div(F.log_softmax(out.softmax(1), 1), torch.full((8, CLASSES), 0.2), reduction="batchmean"),
    ],
)
def test_of_probabilities_it_is_a_warning(loss: Callable[[Tensor], Tensor]) -> None:
    (finding,) = of(loss)
    assert finding.severity is Severity.WARNING


def test_a_sigmoid_before_cross_entropy_is_a_warning() -> None:
    (finding,) = of(lambda out: F.cross_entropy(out.sigmoid(), LABELS))
    assert finding.severity is Severity.WARNING


def test_a_second_log_softmax_is_info() -> None:
    (finding,) = of(lambda out: F.cross_entropy(F.log_softmax(out, 1), LABELS))
    assert finding.severity is Severity.INFO
    assert "changes nothing" in finding.why


def test_found_when_it_begins_late() -> None:
    calls = iter(range(99))

    def loss(net: nn.Module, x: Tensor) -> Tensor:
        out = net(x)
        return F.cross_entropy(out.softmax(1) if next(calls) >= 20 else out, LABELS)

    (finding,) = found(loop_of(loss, lambda: nn.Linear(4, CLASSES), steps=40))
    assert finding.step == 32


@pytest.mark.parametrize(
    "loss",
    [
        lambda out: F.cross_entropy(out, LABELS),
        lambda out: F.nll_loss(F.log_softmax(out, 1), LABELS),
        lambda out: F.nll_loss(out.softmax(1).log(), LABELS),
        lambda out: F.cross_entropy(out.softmax(1) / 0.07, LABELS),
        lambda out: F.cross_entropy((out.softmax(1) + 1e-6).log(), LABELS),
        lambda out: F.cross_entropy(out.sigmoid() * 10, LABELS),
        lambda out: F.cross_entropy(out @ out.softmax(1).T @ torch.randn(8, CLASSES), LABELS),
        lambda out: F.cross_entropy(out.softmax(0), LABELS),
        lambda out: F.kl_div((out / 2).log_softmax(1), (out.detach() / 2).softmax(1), reduction="batchmean"),
        lambda out: F.log_softmax(out.sigmoid(), 1).square().mean(),
        lambda out: F.mse_loss(out.softmax(1), torch.rand(8, CLASSES)),
    ],
)
def test_silent(loss: Callable[[Tensor], Tensor]) -> None:
    assert of(loss) == []


def test_silent_about_a_graph_that_cannot_be_seen() -> None:
    class Opaque(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.softmax(1)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad

    assert of(lambda out: F.cross_entropy(Opaque.apply(out), LABELS)) == []


def test_operations_are_those_of_the_graph() -> None:
    (node,) = graph_of(lambda net, x: F.cross_entropy(net(x).softmax(1), LABELS), lambda: nn.Linear(4, CLASSES))
    assert [each.name for each in node.operations] == ["LogSoftmax", "Softmax", "Addmm"]
    assert [each.axis for each in node.operations] == [1, 1, None]
    assert {each.classes for each in node.operations} == {1}
    assert node.features == node.classes == 1
