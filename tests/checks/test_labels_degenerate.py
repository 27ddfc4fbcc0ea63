"""labels-degenerate: labels that are all the same in the loader are found; constants that the loop makes are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import loopkit
from loopkit import Confidence, Finding, Severity
from loopkit_plugins.checks.data.labels_degenerate import LabelsDegenerate
from tests.loops import adamw
from tests.watched import find, line_of

RULE = "labels-degenerate"
Loss = Callable[[Tensor, Tensor], Tensor]


def found(loop: Callable[[], Any]) -> list[Finding]:
    return [each for each in find(loop, autoload=False, plugins=[LabelsDegenerate]) if each.rule == RULE]


def scores_became_integers() -> None:
    torch.manual_seed(0)
    scores = torch.rand(128)
    loader = DataLoader(TensorDataset(torch.randn(128, 4), scores.long()), batch_size=16)
    net = nn.Linear(4, 1)
    optimizer = adamw(net)
    for x, y in loader:
        optimizer.zero_grad()
        loss = F.mse_loss(net(x).squeeze(1), y.float())
        loss.backward()
        optimizer.step()


SNAPSHOTS = {"labels-degenerate": scores_became_integers}


def loop_of(loss: Loss, labels: Callable[[int], Tensor], batches: int = 16, shown: bool = True) -> Callable[[], None]:
    """A loop of 16 samples a batch whose `i`-th batch has these labels; `loss` gets three scores and them."""

    def loop() -> None:
        torch.manual_seed(0)
        net = nn.Linear(4, 3)
        optimizer = adamw(net)
        data = [(torch.randn(16, 4), labels(i)) for i in range(batches)]
        for x, y in loopkit.batches(data) if shown else data:
            optimizer.zero_grad()
            loss(net(x), y).backward()
            optimizer.step()

    return loop


def test_found_at_the_call_of_the_loss() -> None:
    (finding,) = found(scores_became_integers)
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(scores_became_integers, "F.mse_loss(")
    # Of 8 updates those walked: the first four, the eighth, and none between.
    assert finding.seen == (
        "all 80 targets of mse_loss in 5 batches looked at are 0, as the loader gives them (batch[1])"
    )
    assert "float dtype" in finding.remedy


@pytest.mark.parametrize(
    ("loss", "labels"),
    [
        (F.cross_entropy, torch.full((16,), 2)),
        (lambda z, y: F.cross_entropy(z, y.view(-1)), torch.full((16, 1), 2)),
        (lambda z, y: F.binary_cross_entropy_with_logits(z[:, 0], y.float()), torch.ones(16).long()),
        (lambda z, y: F.smooth_l1_loss(z[:, 0], y), torch.full((16,), 0.5)),
    ],
)
def test_found_in_every_form(loss: Loss, labels: Tensor) -> None:
    assert len(found(loop_of(loss, lambda i: labels))) == 1


def test_a_long_run_is_judged_before_its_end() -> None:
    (finding,) = found(loop_of(F.cross_entropy, lambda i: torch.zeros(16).long(), batches=130))
    assert finding.step is not None
    assert finding.step <= 65


ZEROS = torch.zeros(16).long()


def _two_domains(z: Tensor, y: Tensor) -> Tensor:
    first = F.cross_entropy(z[:8], y[:8])
    return first + F.cross_entropy(z[8:], y[8:])


@pytest.mark.parametrize(
    "loop",
    [
        loop_of(F.cross_entropy, lambda i: torch.randint(0, 3, (16,))),
        loop_of(F.cross_entropy, lambda i: torch.full((16,), i // 6)),  # in order of their labels
        loop_of(F.cross_entropy, lambda i: ZEROS, batches=2),
        loop_of(F.cross_entropy, lambda i: ZEROS, shown=False),
        loop_of(lambda z, y: F.cross_entropy(z, ZEROS), lambda i: torch.randn(16)),  # the first of a contrastive row
        loop_of(lambda z, y: F.mse_loss(z[:, 0], torch.zeros(16)), lambda i: torch.rand(16)),  # a residual
        loop_of(_two_domains, lambda i: torch.tensor([0] * 8 + [1] * 8)),
        loop_of(lambda z, y: F.cross_entropy(z, y), lambda i: torch.full((16,), -100).index_fill(0, y_at(i), 1)),
        loop_of(lambda z, y: z.square().mean(), lambda i: ZEROS),
    ],
)
def test_look_alikes_are_left_alone(loop: Callable[[], None]) -> None:
    assert found(loop) == []


def y_at(i: int) -> Tensor:
    """Where a label counts, few as they are: four in a batch, of 64 that must have been seen."""
    return torch.arange(4)
