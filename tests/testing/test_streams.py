"""Recorded streams: what is written is what is read, and a check says of a stream what it said of the run."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import loopkit
from loopkit import Finding, Kind, Place, Run, Site, Update, UsageError, hookimpl
from loopkit.testing import Recorder, Stream, WrittenLoop, record, replay, watch_loop
from loopkit.testing.stream import RECORDS
from loopkit_plugins.checks.order.missing_zero_grad import MissingZeroGrad
from tests.watched import line_of

places = st.builds(Place, st.text(), st.integers(1, 10**6), st.text())
sites = st.builds(
    Site,
    st.integers(0, 2**30),
    st.integers(0, 2**30),
    places,
    st.lists(places, max_size=3).map(tuple),
    st.none() | places,
    st.just(()),
)
plain = st.text() | st.integers() | st.floats() | st.booleans()
LEAVES: dict[object, st.SearchStrategy[Any]] = {
    int: st.integers(),
    float: st.floats() | st.integers(0, 3),
    bool: st.booleans(),
    str: st.text(),
    object: plain | st.lists(plain, max_size=2).map(tuple),
    type(None): st.none(),
    Kind: st.sampled_from(Kind),
    Site: sites,
}


def of(annotation: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type."""
    if annotation in LEAVES:
        return LEAVES[annotation]
    if dataclasses.is_dataclass(annotation):
        assert isinstance(annotation, type)
        return st.deferred(lambda: _record(annotation))
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is tuple and arguments[-1] is ...:
        return st.lists(of(arguments[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*map(of, arguments))
    assert origin in (types.UnionType, typing.Union), f"no strategy for {annotation}"
    return st.one_of(*map(of, arguments))


def _record(cls: type[Any]) -> st.SearchStrategy[Any]:
    known = {**vars(sys.modules[cls.__module__]), **RECORDS, "Site": Site}
    hints = typing.get_type_hints(cls, known)
    given = {each.name: of(hints[each.name]) for each in dataclasses.fields(cls)}
    optional = [each.name for each in dataclasses.fields(cls) if each.default is not dataclasses.MISSING]
    needed = {name: value for name, value in given.items() if name not in optional}
    return st.fixed_dictionaries(needed, optional={name: given[name] for name in optional}).map(lambda v: cls(**v))


@settings(max_examples=100)
@given(st.lists(of(Update), max_size=2), st.none() | of(Update))
def test_reading_what_was_written_gives_the_same(updates: list[Update], last: Update | None) -> None:
    stream = Stream(tuple(updates), last)
    again = Stream.from_json(stream.to_json())
    assert repr(again) == repr(stream)
    assert again == stream
    assert hash(again) == hash(stream)
    assert all(math.isfinite(update.number) for update in again.updates)


def test_a_site_that_stands_in_several_updates_is_one_object_again() -> None:
    stream = Stream.from_json(record(WrittenLoop(fault="missing-zero-grad")).to_json())
    backwards = [event.site for update in stream.updates for event in update.events if event.kind is Kind.BACKWARD]
    assert len(backwards) > 2
    assert len(set(map(id, backwards))) == 1


def leftover() -> None:
    """Of two windows the last is not stepped."""
    import torch

    net = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for i in range(5):
        net(torch.ones(3, 2)).sum().backward()
        if i % 2:
            optimizer.step()


def test_a_check_says_of_a_stream_what_it_said_of_the_run() -> None:
    recorder = Recorder()
    (found,) = watch_loop(leftover, plugins=[recorder, MissingZeroGrad], autoload=False)
    stream = recorder.stream()
    (told,) = replay(MissingZeroGrad, stream)
    assert dataclasses.replace(told, count=found.count, rank=found.rank) == found
    assert told.place is not None
    assert told.place.line == line_of(leftover, "backward()")
    assert stream.open is not None
    assert [event.kind for event in stream.open.events if event.kind is Kind.BACKWARD] == [Kind.BACKWARD]


class Last:
    """Says what is left undone when the run ends."""

    rule = "last"

    @hookimpl
    def run_finished(self, run: Run) -> Finding | None:
        last = run.open_update()
        if last is None:
            return None
        return Finding(
            self.rule, loopkit.Severity.INFO, loopkit.Confidence.FACT, f"{len(last.events)} {run.steps}", "", ""
        )


def test_the_end_of_the_run_is_replayed() -> None:
    stream = record(leftover)
    assert [finding.seen for finding in replay(Last(), stream)] == [f"{len(stream.open.events)} 2"]  # type: ignore[union-attr]
    assert replay(Last, dataclasses.replace(stream, open=None)) == []


class Broken:
    @hookimpl
    def update_finished(self, update: Update) -> None:
        raise ZeroDivisionError("mine")


class Live:
    @hookimpl
    def update_finished(self, run: Run) -> None:
        run.instrument(loopkit.Ledger)


class Curious:
    @hookimpl
    def update_finished(self, run: Run) -> None:
        run.rows()


def test_what_a_check_raises_passes_and_what_no_stream_has_is_said() -> None:
    stream = record(WrittenLoop())
    with pytest.raises(ZeroDivisionError, match="mine"):
        replay(Broken, stream)
    with pytest.raises(UsageError, match=r"asks for Ledger.*instruments=\{Ledger"):
        replay(Live, stream)
    assert replay(Live, stream, instruments={loopkit.Ledger: object()}) == []
    with pytest.raises(AttributeError, match=r"run\.rows"):
        replay(Curious, stream)
    with pytest.raises(loopkit.PluginError, match="hookimpl"):
        replay(object(), stream)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:-9],
        lambda text: text.replace('"schema": 1', '"schema": 2'),
        lambda text: text.replace("StepReading", "StepReadings"),
        lambda text: text.replace('"parameters"', '"perimeters"'),
        lambda text: text.replace('"site": 0', '"site": 99'),
        lambda text: "[]",
    ],
)
def test_what_is_no_stream_is_refused(spoil: Callable[[str], str]) -> None:
    with pytest.raises(UsageError, match="record it anew"):
        Stream.from_json(spoil(record(WrittenLoop()).to_json()))


def test_what_a_stream_cannot_hold_is_named() -> None:
    stream = record(WrittenLoop())
    event = loopkit.Event(Kind.STEP, reading=Last())  # type: ignore[arg-type]
    strange = dataclasses.replace(stream.updates[0], events=(event,))
    with pytest.raises(UsageError, match="cannot hold a Last"):
        Stream((strange,)).to_json()


def test_replaying_imports_no_torch(tmp_path: Path) -> None:
    file = tmp_path / "stream.json"
    file.write_text(record(WrittenLoop(fault="missing-zero-grad")).to_json(), encoding="utf-8")
    code = (
        "import sys, pathlib\nfrom loopkit.testing import Stream, assert_finds, replay\n"
        "from loopkit_plugins.checks.order.missing_zero_grad import MissingZeroGrad\n"
        f"stream = Stream.from_json(pathlib.Path({str(file)!r}).read_text())\n"
        "assert_finds(replay(MissingZeroGrad, stream), 'missing-zero-grad')\n"
        "assert not {'torch', 'hypothesis'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_recorded_beside_all_checks_is_what_is_recorded_alone() -> None:
    loop = WrittenLoop(window=2, tail=1, scheduled=True, clip=True)
    recorder = Recorder()
    watch_loop(loop, plugins=[recorder])
    seen = [(update.number, [event.kind for event in update.events]) for update in recorder.stream().updates]
    assert seen == [(update.number, [event.kind for event in update.events]) for update in record(loop).updates]
    assert len(seen) > 3
