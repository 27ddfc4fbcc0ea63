"""The picture: 80 columns whatever the loop, colour only where asked for, ASCII where there is no better."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopkit import Place, Trace, TracedEvent, TracedRow
from loopkit.trace.cadence import ordinal, period
from loopkit.trace.lines import shortened
from loopkit.trace.picture import COLOURS, drawn
from loopkit.trace.recorded import relative
from tests.trace.test_diff import WORDS, made

LONG = "/home/someone/projects/a-rather-long-name-of-a-project/src/package/training/loops/main.py"


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    files = st.sampled_from([LONG, "/there/train.py", "/usr/lib/python3/site-packages/transformers/trainer.py"])
    places = st.none() | st.builds(Place, files, st.integers(1, 99999))
    events = tuple(
        TracedEvent(
            draw(st.sampled_from([*WORDS, "evaluation", "skipped step"])),
            draw(places),
            draw(places),
            "x" * draw(st.integers(0, 90)),
            draw(st.integers(1, 9_999_999)),
            draw(st.none() | st.floats(1e-6, 1e4)),
        )
        for _ in range(draw(st.integers(1, 6)))
    )
    rows = []
    for _ in range(draw(st.integers(0, 10))):
        at = draw(st.lists(st.integers(0, len(events) - 1), min_size=1, max_size=40))
        count = draw(st.integers(1, 100_000))
        row = tuple((events[each].event, (each,)) for each in at)
        rows.append(TracedRow(row, count, draw(st.integers(1, 100_000)), draw(st.integers(0, 100_000))))
    rows.sort(key=lambda row: -row.count)
    updates = sum(row.count for row in rows)
    evaluations = tuple(sorted(draw(st.lists(st.integers(0, 1000), max_size=5))))
    unfinished = draw(st.sampled_from(["", "(batch → forward → backward) ×4"]))
    seconds = sum(event.seconds or 0.0 for event in events) + draw(st.floats(0, 1e3))
    return Trace("train.py", "/there", updates, seconds, tuple(rows), 0, events, evaluations, unfinished, True)


@given(traces())
def test_any_trace_fits_80_columns_and_shows_each_event(trace: Trace) -> None:
    text = drawn(trace)
    assert max(map(len, text.splitlines())) <= 80
    for event in trace.events:
        assert event.event in text


@given(traces())
def test_a_trace_survives_json(trace: Trace) -> None:
    again = Trace.from_dict(trace.to_dict())
    assert [str(row) for row in again.rows] == [str(row) for row in trace.rows]
    assert again.rows == trace.rows
    assert again.evaluations == trace.evaluations
    assert [dataclasses.replace(event, seconds=None) for event in again.events] == [
        dataclasses.replace(event, seconds=None) for event in trace.events
    ]


@given(traces())
def test_ascii_is_the_same_picture(trace: Trace) -> None:
    assert drawn(trace, utf8=False).isascii()
    assert len(drawn(trace, utf8=False).splitlines()) == len(drawn(trace).splitlines())


@given(traces())
def test_colour_changes_nothing_but_colour(trace: Trace) -> None:
    coloured = drawn(trace, colour=True)
    assert COLOURS["head"] in coloured
    assert "\x1b" not in drawn(trace)
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == drawn(trace)


@pytest.mark.parametrize(
    ("at", "every"), [((50, 100, 150), 50), ((0, 50, 100), 50), ((50, 101), 51), ((3, 5, 9), None), ((3, 3), None)]
)
def test_evaluations_are_regular_or_not(at: tuple[int, ...], every: int | None) -> None:
    assert period(at) == every


def test_ordinals() -> None:
    assert [ordinal(n) for n in (2, 3, 4, 11, 21, 22, 112)] == ["2nd", "3rd", "4th", "11th", "21st", "22nd", "112th"]


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("train.py:5", "train.py:5"),
        ("lightning/pytorch/trainer/trainer.py:1113", "lightning/…/trainer.py:1113"),
        ("/somewhere/else/altogether/it/is/far/train.py:5", "…/train.py:5"),
        ("a" * 40 + ".py:5", "…" + "a" * 24 + ".py:5"),
    ],
)
def test_long_paths(path: str, told: str) -> None:
    assert shortened(path, 30) == told


def test_installed_files_are_told_from_where_packages_lie() -> None:
    assert relative("/opt/lib/python3.11/site-packages/ignite/engine/engine.py", "/opt") == "ignite/engine/engine.py"


def test_a_device_is_named() -> None:
    assert "Times are the host's" in drawn(made(["forward", "backward", "step"], device=True))
    assert "Times are the host's" not in drawn(made(["forward", "backward", "step"]))
