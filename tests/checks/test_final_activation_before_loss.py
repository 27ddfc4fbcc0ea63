"""final-activation-before-loss: scores that an activation has cut are found; nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loopkit import Confidence, Finding, Severity
from loopkit_plugins.checks.loss.final_activation_before_loss import FinalActivationBeforeLoss
from tests.losses import graph_of, loop_of
from tests.watched import find, line_of

RULE = "final-activation-before-loss"
F = nn.functional
CLASSES = 5
LABELS = torch.arange(8) % CLASSES
BITS = (torch.rand(8, CLASSES) > 0.5).float()
NUMBERS = torch.linspace(-1, 3, 8 * CLASSES).view(8, CLASSES)


def found(loop: Callable[[], Any]) -> list[Finding]:
    """What this rule says of a loop."""
    return [each for each in find(loop, autoload=False, plugins=[FinalActivationBeforeLoss]) if each.rule == RULE]


def relu_at_the_end() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, CLASSES), nn.ReLU())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(torch.randn(8, 4)), LABELS)
        loss.backward()
        optimizer.step()


def negative_targets() -> None:
    net = nn.Sequential(nn.Linear(4, CLASSES), nn.ReLU())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        loss = F.mse_loss(net(torch.randn(8, 4)), NUMBERS)
        loss.backward()
        optimizer.step()


SNAPSHOTS = {RULE: relu_at_the_end, f"{RULE}-distance": negative_targets}


def of(loss: Callable[[Tensor], Tensor]) -> list[Finding]:
    """What is said of this loss of a linear layer's scores."""
    return found(loop_of(lambda net, x: loss(net(x)), lambda: nn.Linear(4, CLASSES)))


@pytest.mark.parametrize("loop", [relu_at_the_end, negative_targets])
def test_found_where_the_loss_is_made(loop: Callable[[], None]) -> None:
    (finding,) = found(loop)
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.FACT)
    assert finding.place is not None
    assert finding.place.line == line_of(loop, "loss =")
    assert finding.subject == "ReLU"


def test_the_share_of_targets_out_of_reach_is_named() -> None:
    (finding,) = found(negative_targets)
    share = (NUMBERS < 0).float().mean().item()
    assert finding.evidence["negative_targets"] == pytest.approx(share)
    assert f"{share:.0%} of the targets are negative" in finding.seen


@pytest.mark.parametrize(
    "activation",
    [F.relu, F.relu6, torch.tanh, F.softplus, F.gelu, F.silu, lambda out: F.relu(out).view(-1, CLASSES)],
)
@pytest.mark.parametrize(
    "loss",
    [
        lambda out: F.cross_entropy(out, LABELS),
        lambda out: F.cross_entropy(out, LABELS, label_smoothing=0.1),
        lambda out: F.nll_loss(out.log_softmax(1), LABELS),
        lambda out: F.binary_cross_entropy_with_logits(out, BITS),
    ],
)
def test_found_before_losses_of_scores(
    activation: Callable[[Tensor], Tensor], loss: Callable[[Tensor], Tensor]
) -> None:
    (finding,) = of(lambda out: loss(activation(out)))
    assert finding.severity is Severity.WARNING


def test_dropout_of_scores_is_info_and_of_a_distance_a_warning() -> None:
    (finding,) = of(lambda out: F.cross_entropy(F.dropout(out, 0.3), LABELS))
    assert (finding.severity, finding.subject) == (Severity.INFO, "dropout")
    (finding,) = of(lambda out: F.mse_loss(F.dropout(out, 0.3), NUMBERS))
    assert (finding.severity, finding.subject) == (Severity.WARNING, "dropout")


@pytest.mark.parametrize(
    "loss",
    [
        lambda out: F.cross_entropy(out, LABELS),
        lambda out: F.cross_entropy(F.leaky_relu(out), LABELS),
        lambda out: F.cross_entropy(10 * torch.tanh(out / 10), LABELS),
        lambda out: F.cross_entropy(out.relu() - out, LABELS),
        lambda out: F.cross_entropy(out.softmax(1), LABELS),
        lambda out: F.cross_entropy(out * (torch.rand(8, CLASSES) > 0.5), LABELS),
        lambda out: F.mse_loss(out * torch.rand(8, CLASSES), NUMBERS),
        lambda out: F.mse_loss(F.dropout(out, 0.0), NUMBERS),
        lambda out: F.mse_loss(F.dropout(out, 0.5, training=False), NUMBERS),
        lambda out: F.mse_loss(out.relu(), NUMBERS.abs()),
        lambda out: F.mse_loss(out.relu(), NUMBERS + 0.95),
        lambda out: F.mse_loss(out.tanh(), NUMBERS.tanh()),
        lambda out: F.mse_loss(out, NUMBERS),
        lambda out: F.binary_cross_entropy(out.sigmoid(), BITS),
        lambda out: F.kl_div(out.relu().log_softmax(1), torch.full((8, CLASSES), 0.2), reduction="batchmean"),
    ],
)
def test_silent(loss: Callable[[Tensor], Tensor]) -> None:
    assert of(loss) == []


def test_a_product_that_is_no_dropout_hides_what_lies_behind() -> None:
    (node,) = graph_of(
        lambda net, x: F.mse_loss(net(x).relu() * torch.rand(8, CLASSES), NUMBERS), lambda: nn.Linear(4, CLASSES)
    )
    assert [each.name for each in node.operations] == ["Mul"]
