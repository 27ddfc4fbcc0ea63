"""all-labels-ignored: batches without a target are found where they are the rule, or make the loss NaN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loopkit import Confidence, Finding, Severity
from loopkit_plugins.checks.loss.all_labels_ignored import AllLabelsIgnored
from tests.loops import adamw
from tests.watched import find, line_of

RULE = "all-labels-ignored"
CLASSES = 3


def found(loop: Callable[[], Any]) -> list[Finding]:
    return [each for each in find(loop, autoload=False, plugins=[AllLabelsIgnored]) if each.rule == RULE]


def masks_everything() -> None:
    torch.manual_seed(0)
    net = nn.Linear(4, CLASSES)
    optimizer = adamw(net)
    for _ in range(4):
        x, y = torch.randn(8, 4), torch.full((8,), -100)
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y, reduction="sum")
        loss.backward()
        optimizer.step()


SNAPSHOTS = {"all-labels-ignored": masks_everything}


def loop_of(labels: Callable[[int], Tensor], **options: Any) -> Callable[[], None]:
    """A loop whose `i`-th batch has these labels."""

    def loop() -> None:
        net = nn.Linear(4, CLASSES)
        optimizer = adamw(net)
        for i in range(8):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(torch.randn(8, 4)), labels(i), **options)
            loss.backward()
            optimizer.step()

    return loop


def test_found_at_the_call_of_the_loss() -> None:
    (finding,) = found(masks_everything)
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(masks_everything, "F.cross_entropy(")
    assert finding.seen.startswith("all 8 targets of cross_entropy are the ignored -100")
    assert finding.evidence["loss"] == 0


def test_a_mean_is_nan_at_once() -> None:
    (finding,) = found(loop_of(lambda i: torch.full((8,), -100) if i == 0 else torch.ones(8).long()))
    assert finding.step == 1
    assert "1 of 1 batches looked at; the loss is nan" in finding.seen


def test_an_index_of_ones_own_counts_too() -> None:
    (finding,) = found(loop_of(lambda i: torch.zeros(8).long(), ignore_index=0))
    assert finding.evidence["ignore_index"] == 0


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_target_that_counts_is_enough(reduction: str) -> None:
    assert found(loop_of(lambda i: torch.tensor([1, *[-100] * 7]), reduction=reduction)) == []


def test_a_rare_empty_batch_whose_loss_is_a_number_is_left_alone() -> None:
    labels: Callable[[int], Tensor] = lambda i: torch.full((8,), -100) if i == 1 else torch.ones(8).long()  # noqa: E731
    assert found(loop_of(labels, reduction="sum")) == []


def test_targets_that_are_numbers_are_left_alone() -> None:
    assert found(loop_of(lambda i: torch.full((8, CLASSES), 1 / CLASSES))) == []
