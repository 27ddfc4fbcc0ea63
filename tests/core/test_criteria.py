"""What is read of losses, models and batches: in walked updates alone, and of what is sent backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import loopkit
from loopkit import Criteria, Run, Seen, Update, hookimpl
from loopkit.lossvalues import of_classes, of_tokens
from tests.loops import adamw

FUNCTION = torch._C._nn.mse_loss


class Keeps:
    """Keeps what a check would see."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> None:
        seen = run.instrument(Criteria).of(update)
        assert run.instrument(Criteria).of(update) is seen  # a second check sees the same
        self.seen.append(seen)


def loss_of(net: nn.Module) -> Tensor:
    x = torch.randn(8, 4)
    return F.mse_loss(net(x), x[:, :2])


def watched(loop: Any) -> list[Seen]:
    keeps = Keeps()
    with loopkit.watch(plugins=[keeps], autoload=False) as run:
        loop()
    assert run.instrument(Criteria).error is None
    return keeps.seen


def test_functions_are_wrapped_while_graphs_are_walked_and_not_between() -> None:
    wrapped = []

    def loop() -> None:
        net = nn.Linear(4, 2)
        optimizer = adamw(net)
        for _ in range(20):
            optimizer.zero_grad()
            wrapped.append(torch._C._nn.mse_loss is not FUNCTION)
            loss_of(net).backward()
            optimizer.step()

    seen = watched(loop)
    assert [i for i, each in enumerate(wrapped, 1) if each] == [1, 2, 3, 4, 8, 16]
    updates = [call.update for each in seen for call in each.calls]
    assert updates == sorted(set(updates))
    assert {1, 2, 3, 4, 8} <= set(updates)
    assert torch._C._nn.mse_loss is FUNCTION


def test_only_what_is_sent_backward_counts_and_nothing_is_told_twice() -> None:
    def loop() -> None:
        net = nn.Linear(4, 2)
        optimizer = adamw(net)
        for _ in range(4):
            optimizer.zero_grad()
            loss = loss_of(net)
            F.l1_loss(net(torch.randn(8, 4)), torch.randn(8, 2))  # a metric
            with torch.no_grad():
                F.l1_loss(net(torch.randn(8, 4)), torch.randn(8, 2))
            (loss / 2).backward()
            optimizer.step()

    calls = [call for each in watched(loop) for call in each.calls]
    assert {call.kind for call in calls} == {"mse_loss"}
    assert [call.update for call in calls] == sorted({call.update for call in calls})
    assert all(call.shape == (8, 2) and call.reduction == "mean" and call.origin == "Addmm" for call in calls)


def test_a_tensor_that_cannot_be_read_costs_the_values_and_not_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOOPKIT_RAISE")

    def fails(*_: Any) -> None:
        raise RuntimeError("no such tensor")

    monkeypatch.setattr("loopkit.criteria.of_input", fails)
    keeps = Keeps()
    with loopkit.watch(plugins=[keeps], autoload=False) as run:
        net = nn.Linear(4, 2)
        optimizer = adamw(net)
        for _ in range(4):
            loss_of(net).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert run.steps == 4
    assert keeps.seen
    assert any("the values of a loss could not be read" in why for _, why in run.not_checked())
    assert torch._C._nn.mse_loss is FUNCTION


def test_tokens_and_batches_are_kept_no_longer_than_their_update() -> None:
    with loopkit.watch(plugins=[Keeps()], autoload=False) as run:
        net = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2))
        optimizer = adamw(net)
        for _ in range(7):
            net(torch.randint(0, 9, (5, 3))).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        criteria = run.instrument(Criteria)
        assert criteria._tokens == []


rows = st.integers(1, 5).flatmap(
    lambda width: st.lists(st.lists(st.integers(0, 2), min_size=width, max_size=width), min_size=1, max_size=5)
)


@given(rows)
def test_padding_is_counted_as_one_would_by_hand(ids: list[list[int]]) -> None:
    ends = [len(row) - len("".join(map(str, row)).rstrip("0")) for row in ids]
    numbers, mask = of_tokens(torch.tensor(ids), 0)
    assert [int(each) for each in mask.sum(1)] == ends
    assert int(numbers["pads"]) == sum(ends)
    assert int(numbers["padded_rows"]) == sum(end > 0 for end in ends)
    assert int(numbers["empty_rows"]) == sum(end == len(row) for end, row in zip(ends, ids, strict=True))
    assert int(numbers["inside"]) == sum(row.count(0) for row in ids) - sum(ends)
    last = [row[-end - 1] for end, row in zip(ends, ids, strict=True) if 0 < end < len(row)]
    if last:
        assert (int(numbers["last_low"]), int(numbers["last_high"])) == (min(last), max(last))


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9), st.integers(-3, 3))
def test_targets_are_counted_as_one_would_by_hand(targets: list[int], ignored: int) -> None:
    numbers = of_classes(torch.tensor(targets), ignored)
    counted = [each for each in targets if each != ignored]
    assert (int(numbers["counted"]), int(numbers["targets"])) == (len(counted), len(targets))
    if counted:
        assert (int(numbers["low"]), int(numbers["high"])) == (min(counted), max(counted))
