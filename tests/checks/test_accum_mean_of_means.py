"""accum-mean-of-means: unequal counts of targets that are averaged apart are found, everything else is left alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from loopkit import Confidence, Finding, Severity
from tests.loops import adamw
from tests.watched import find, line_of

RULE = "accum-mean-of-means"
IGNORED = -100
cross_entropy = nn.functional.cross_entropy
Loss = Callable[[Tensor, Tensor], Tensor]


def found(loop: Callable[[], Any]) -> list[Finding]:
    """What this rule says of a loop."""
    return [finding for finding in find(loop) if finding.rule == RULE]


def _pad(sentences: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    tokens = nn.utils.rnn.pad_sequence(list(sentences), batch_first=True)
    return tokens, tokens.masked_fill(tokens == 0, IGNORED)


def sentences(lengths: Sequence[int]) -> DataLoader[Tensor]:
    """Two sentences a batch, of these lengths."""
    data: Any = [torch.randint(1, 9, (length,)) for length in lengths]
    return DataLoader(data, batch_size=2, collate_fn=_pad)


def language_model() -> nn.Module:
    return nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9))


def averages_apart() -> None:
    net = language_model()
    optimizer = adamw(net)
    for i, (tokens, labels) in enumerate(sentences([4, 4, 20, 20, 10, 10, 5, 3] * 4)):
        loss = cross_entropy(net(tokens).transpose(1, 2), labels)
        (loss / 4).backward()
        if (i + 1) % 4 == 0:
            optimizer.step()
            optimizer.zero_grad()


SNAPSHOTS = {"accum-mean-of-means": averages_apart}


def mean(logits: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(logits.flatten(0, 1), labels.flatten())


def loop_over(lengths: Sequence[int], loss: Loss = mean, k: int = 4) -> Callable[[], None]:
    """A loop that accumulates over sentences of these lengths."""

    def loop() -> None:
        net = language_model()
        optimizer = adamw(net)
        for i, (tokens, labels) in enumerate(sentences(lengths)):
            (loss(net(tokens), labels) / k).backward()
            if (i + 1) % k == 0:
                optimizer.step()
                optimizer.zero_grad()

    return loop


def test_found_at_the_backward_with_both_ends_and_the_ratio() -> None:
    (finding,) = found(averages_apart)
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(averages_apart, "backward()")
    assert finding.places["step"].line == line_of(averages_apart, "optimizer.step()")
    assert "8 to 40: token weights differ by 5.0" in finding.seen
    assert finding.evidence["targets"] == [8.0, 40.0, 20.0, 8.0]


def test_found_where_targets_differ_and_none_is_ignored() -> None:
    (finding,) = found(loop_over([4, 4, 8, 8, 12, 12, 4, 4] * 4))
    assert finding.evidence["ratio"] == 3.0


def test_found_in_windows_of_two() -> None:
    (finding,) = found(loop_over([4, 4, 12, 12, 12, 12, 4, 4] * 4, k=2))
    assert finding.evidence["ratio"] == 3.0


def test_found_in_a_sum_that_each_micro_batch_divides_by_its_own_count() -> None:
    def by_own_count(logits: Tensor, labels: Tensor) -> Tensor:
        total = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
        return total / (labels != IGNORED).sum()

    (finding,) = found(loop_over([4, 4, 20, 20, 10, 10, 5, 3] * 4, by_own_count))
    assert finding.evidence["ratio"] == 5.0


def test_found_where_the_batches_of_a_window_are_fetched_first() -> None:
    def loop() -> None:
        net = language_model()
        optimizer = adamw(net)
        data = iter(sentences([4, 4, 20, 20, 10, 10, 5, 3] * 4))
        for _ in range(4):
            for tokens, labels in [next(data) for _ in range(4)]:
                (mean(net(tokens), labels) / 4).backward()
            optimizer.step()
            optimizer.zero_grad()

    (finding,) = found(loop)
    assert finding.severity is Severity.WARNING


def test_counts_that_differ_a_little_are_only_said() -> None:
    (finding,) = found(loop_over([10, 10, 12, 12, 11, 11, 10, 10] * 4))
    assert finding.severity is Severity.INFO
    assert "differ by 1.2" in finding.seen


def test_what_is_rare_is_only_said() -> None:
    even, odd = [8] * 8, [8, 8, 8, 8, 30, 30, 8, 8]
    (finding,) = found(loop_over([*even, *odd, *even * 4]))
    assert finding.severity is Severity.INFO


def test_silent_on_equal_counts() -> None:
    assert found(loop_over([8] * 32)) == []


def test_silent_on_a_sum_over_the_count_of_the_window() -> None:
    def by_the_windows_count(logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum") / 76 * 4

    assert found(loop_over([4, 4, 20, 20, 10, 10, 5, 3] * 4, by_the_windows_count)) == []


def test_silent_on_a_pure_sum() -> None:
    def total(logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")

    assert found(loop_over([4, 4, 20, 20, 10, 10, 5, 3] * 4, total)) == []


def test_silent_on_class_weights() -> None:
    def weighted(logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits.flatten(0, 1), labels.flatten(), weight=torch.linspace(0.5, 1.5, 9))

    assert found(loop_over([4, 4, 20, 20, 10, 10, 5, 3] * 4, weighted)) == []


@pytest.mark.parametrize("epochs", [1, 5])
def test_silent_on_one_smaller_batch_at_the_end_of_the_data(epochs: int) -> None:
    def loop() -> None:
        net = nn.Linear(4, 3)
        optimizer = adamw(net)
        features = torch.randn(8 * 7 + 2, 4)
        data: Any = list(zip(features, features[:, :3].argmax(1), strict=True))
        for _ in range(epochs):
            for i, (x, y) in enumerate(DataLoader(data, batch_size=8)):
                (cross_entropy(net(x), y) / 4).backward()
                if (i + 1) % 4 == 0:
                    optimizer.step()
                    optimizer.zero_grad()

    assert found(loop) == []


def test_silent_without_accumulation() -> None:
    assert found(loop_over([4, 4, 20, 20, 10, 10, 5, 3] * 4, k=1)) == []


def test_silent_on_micro_batches_that_are_weighted_by_their_counts() -> None:
    def by_count(logits: Tensor, labels: Tensor) -> Tensor:
        return mean(logits, labels) * (labels != IGNORED).sum() / 19

    assert found(loop_over([4, 4, 20, 20, 10, 10, 5, 3] * 4, by_count)) == []
