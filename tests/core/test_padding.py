"""Targets beside an attention mask: what is counted, against a plain count of the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import loopkit
from loopkit import Padding
from loopkit.padding import Doors, told
from tests.watched import Updates

IGNORED, WORDS = -100, 6


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, WORDS)

    def forward(self, input_ids: Tensor, attention_mask: Any = None, **_: Any) -> Tensor:
        logits: Tensor = self.table(input_ids)
        return logits


def reading(ids: Tensor, mask: Tensor, labels: Tensor, *, cut: bool) -> Padding | None:
    """What is read of a causal loss, made as one writes it (`cut`) or as transformers does."""
    doors, net = Doors(), Net()
    doors.entered(net, (), {"input_ids": ids, "attention_mask": mask})
    logits = net(ids)
    if cut:
        loss = F.cross_entropy(logits[:, :-1].reshape(-1, WORDS), labels[:, 1:].reshape(-1))
    else:
        ahead = F.pad(labels, (0, 1), value=IGNORED)[:, 1:]
        loss = F.cross_entropy(logits.reshape(-1, WORDS), ahead.reshape(-1))
    return told(doors.beside(loss.grad_fn))


def counted(ids: Tensor, mask: Tensor, labels: Tensor) -> tuple[int, int, int, int]:
    """Targets that count, those on padding, sequences that could end, those whose end is dropped: a loop."""
    targets = padded = rows = dropped = 0
    filler = int(ids[mask == 0][0])
    for words, real, marks in zip(ids.tolist(), mask.tolist(), labels.tolist(), strict=True):
        first, last = real.index(1), len(real) - 1 - real[::-1].index(1)
        for at in range(1, len(words)):
            if marks[at] != IGNORED:
                targets += 1
                padded += not first <= at <= last and not first <= at - 1 <= last
        if last >= 2 and marks[last - 1] != IGNORED:
            rows += 1
            dropped += words[last] == filler and marks[last] == IGNORED
    return targets, padded, rows, dropped


@given(st.data())
def test_counts_are_those_of_a_plain_loop(data: st.DataObject) -> None:
    batch, width = data.draw(st.integers(1, 4)), data.draw(st.integers(3, 7))
    left, filler = data.draw(st.booleans()), data.draw(st.integers(0, WORDS - 1))
    mask = torch.zeros(batch, width, dtype=torch.long)
    for row in mask:
        length = data.draw(st.integers(1, width))
        row[slice(width - length, width) if left else slice(0, length)] = 1
    mask[0] = torch.tensor([0] + [1] * (width - 1) if left else [1] * (width - 1) + [0])
    number = st.integers(0, WORDS - 1)
    ids = torch.tensor(
        data.draw(st.lists(st.lists(number, min_size=width, max_size=width), min_size=batch, max_size=batch))
    )
    ids[mask == 0] = filler
    keep = data.draw(
        st.lists(st.lists(st.booleans(), min_size=width, max_size=width), min_size=batch, max_size=batch)
    )
    labels = ids.masked_fill(~torch.tensor(keep), IGNORED)
    told_of = reading(ids, mask, labels, cut=data.draw(st.booleans()))
    targets, padded, rows, dropped = counted(ids, mask, labels)
    if told_of is None:  # nothing is known of targets that are all on padding, or none
        assert targets == padded
        return
    assert told_of.counted == targets
    assert told_of.padded <= padded  # fewer where the targets are also the ids in place
    if (ids[:, 1:] != ids[:, :-1]).all():
        assert told_of.padded == padded
    assert told_of.token in (filler, None)
    assert (told_of.filler, told_of.rows, told_of.dropped) == (filler, rows, dropped)


def test_a_forward_is_forgotten_when_another_follows_the_backward() -> None:
    doors, net = Doors(), Net()
    ids = torch.randint(0, WORDS, (2, 5))

    def rows() -> int:
        doors.entered(net, (), {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        found = doors.beside(F.cross_entropy(net(ids).flatten(0, 1), ids.flatten()).grad_fn)
        assert found is not None
        return len(found)

    assert rows() == rows() == 2


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.float32])
def test_masks_of_any_type(kind: torch.dtype) -> None:
    ids = torch.tensor([[1, 2, 3, 0, 0], [1, 2, 3, 4, 5]])
    found = reading(ids, (ids != 0).to(kind), ids, cut=True)
    assert found is not None
    assert (found.counted, found.padded, found.token) == (8, 1, 0)


@pytest.mark.parametrize(
    "mask",
    [
        None,
        "full",
        [[1, 1, 1], [1, 1, 0]],
        torch.ones(2),
        torch.ones(2, 9),
        torch.ones(3, 3),
        torch.ones(2, 1, 3, 3),
        torch.ones(2, 3, device="meta"),
        torch.ones(2, 3).to_sparse(),
        torch.ones(0, 3),
        nn.Parameter(torch.ones(2, 3)),
    ],
    ids=str,
)
def test_what_is_no_mask_of_this_batch_says_nothing_and_breaks_nothing(mask: Any) -> None:
    kept, net = Updates(), Net()
    ids = torch.tensor([[1, 2, 3], [1, 2, 0]])
    with loopkit.watch(plugins=[kept], autoload=False) as run:
        optimizer = torch.optim.SGD(net.parameters())
        F.cross_entropy(net(ids, attention_mask=mask)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()
    assert run.recorder.losses.error is None
    (term,) = [term for update in kept.seen for _, loss in update.losses() for term in loss.terms]
    assert term.valid == 4
    assert term.padding is None
