"""What `--diff` says of two traces: what moved, was added or lost, whose line, whose count; and what it leaves."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loopkit import Place, Trace, TracedEvent, TracedRow
from loopkit.trace.diff import Change, compare, told
from tests.loops import adamw, loader, loss_of, model
from tests.trace.traced import traced

WORDS = ["batch", "forward", "backward", "clip", "step", "scheduler", "zero_grad", "unscale"]


def made(words: list[str], count: int = 10, **changes: Any) -> Trace:
    """A trace of a loop that is one row of these words, each from a line of its own."""
    order = list(dict.fromkeys(words))
    events = tuple(
        TracedEvent(
            word, Place("/there/train.py", 10 + n, "train"), None, f"{word}()", count * words.count(word), 0.5
        )
        for n, word in enumerate(order)
    )
    row = TracedRow(tuple((word, (order.index(word),)) for word in words), count, 1, count * words.count("batch"))
    trace = Trace("train.py", "/there", count, 9.0, (row,), 0, events, (), "", False)
    return dataclasses.replace(trace, **changes)


def loop(clear: str, clip: bool = False) -> Callable[[], None]:
    def run() -> None:
        net = model()
        optimizer = adamw(net)
        for x, y in loader():
            if clear == "first":
                optimizer.zero_grad()
            loss = loss_of(net(x), y)
            if clear == "before backward":
                optimizer.zero_grad()
            loss.backward()
            if clip:
                torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()

    return run


def test_a_moved_zero_grad() -> None:
    compared = compare(traced(loop("first")), traced(loop("before backward")))
    assert [(change.change, change.event) for change in compared.changes] == [
        ("moved", "zero_grad"),
    ]
    (moved,) = compared.changes
    assert moved.before.startswith("after batch (")
    assert moved.after.startswith("after forward (")
    assert compared.differs


def test_lost_and_added() -> None:
    compared = compare(traced(loop("first")), traced(loop("", clip=True)))
    assert [(change.change, change.event) for change in compared.changes] == [
        ("lost", "zero_grad"),
        ("added", "clip"),
    ]


def test_a_loop_is_the_same_as_itself() -> None:
    compared = compare(traced(loop("first")), traced(loop("first")))
    assert not compared.differs


def test_numbers_of_lines_and_times_are_no_difference() -> None:
    before = made(["batch", "forward", "backward", "step"])
    places = [
        dataclasses.replace(each, place=Place("/there/train.py", each.place.line + 7, "train"), seconds=0.7)
        for each in before.events
        if each.place
    ]
    compared = compare(before, dataclasses.replace(before, events=tuple(places), seconds=12.0))
    assert not compared.differs
    assert [(note.change, note.event) for note in compared.notes] == [
        ("line", "batch"),
        ("line", "forward"),
        ("line", "backward"),
        ("line", "step"),
        ("time", "update"),
    ]


def test_a_changed_line() -> None:
    before = made(["forward", "backward", "step"])
    events = (*before.events[:2], dataclasses.replace(before.events[2], code="scaler.step(optimizer)"))
    (change,) = compare(before, dataclasses.replace(before, events=events)).changes
    assert change == Change("line", "step", "step() (train.py:12)", "scaler.step(optimizer) (train.py:12)")


def test_changed_counts() -> None:
    four = made(["batch", "forward", "backward"] * 4 + ["step"])
    two = made(["batch", "forward", "backward"] * 2 + ["step"], evaluations=(5, 10))
    assert [(each.event, each.before, each.after) for each in compare(four, two).changes] == [
        ("forward", "4 an update", "2 an update"),
        ("backward", "4 an update", "2 an update"),
        ("batch", "4 an update", "2 an update"),
        ("evaluation", "none", "every 5 updates"),
    ]


def test_fewer_updates_and_rows_beside_the_usual_one() -> None:
    before = made(["forward", "backward", "step"])
    tail = TracedRow((("step", (2,)),), 1, 11, 0)
    after = dataclasses.replace(before, rows=(*before.rows, tail), updates=11)
    assert [(each.change, each.event, each.after) for each in compare(before, after).changes] == [
        ("count", "update", "11"),
        ("row", "step", "update 11"),
    ]


rows = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12)


@given(rows, st.integers(1, 50))
def test_any_loop_is_the_same_as_itself(words: list[str], count: int) -> None:
    assert not compare(made(words, count), made(words, count)).differs


@given(rows, rows)
def test_what_one_way_is_added_is_lost_the_other_way(one: list[str], other: list[str]) -> None:
    there, back = compare(made(one), made(other)), compare(made(other), made(one))
    assert there.differs == back.differs == (one != other)

    def words(kind: str, changes: tuple[Change, ...]) -> list[str]:
        return sorted(change.event for change in changes if change.change == kind)

    if len(set(one)) == len(one) and len(set(other)) == len(other):
        assert words("added", there.changes) == words("lost", back.changes) == sorted(set(other) - set(one))
        assert words("lost", there.changes) == words("added", back.changes) == sorted(set(one) - set(other))


@given(rows, rows)
def test_every_difference_is_told_in_80_columns_and_in_json(one: list[str], other: list[str]) -> None:
    compared = compare(made(one), made(other))
    text = told(compared, ("before.json", "after.json"))
    assert max(map(len, text.splitlines())) <= 80
    assert text.splitlines()[-1] == ("different" if compared.differs else "the same")
    values = json.loads(compared.to_json())
    assert values["different"] == compared.differs
    assert [each["event"] for each in values["changes"]] == [each.event for each in compared.changes]


@pytest.mark.parametrize(
    ("one", "other", "moved"),
    [
        ("batch zero_grad forward backward step", "batch forward zero_grad backward step", "zero_grad"),
        ("forward backward clip step", "forward clip backward step", "clip"),
        ("scheduler forward backward step", "forward backward step scheduler", "scheduler"),
    ],
)
def test_what_moved_is_what_a_reader_would_say(one: str, other: str, moved: str) -> None:
    changes = compare(made(one.split()), made(other.split())).changes
    assert [(change.change, change.event) for change in changes] == [("moved", moved)]
