"""The TensorBoard sink keeps loopkit's promises: it changes nothing, breaks nothing, and stalls nothing."""

from __future__ import annotations

import random
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import loopkit
from loopkit_plugins.sinks.tensorboard import TensorBoard, clock, optimizers, readings, writer
from loopkit_plugins.sinks.tensorboard.clock import Clock
from loopkit_plugins.sinks.tensorboard.names import Named, evenly, layer_of, layers, shown
from loopkit_plugins.sinks.tensorboard.schedule import Schedule
from tests.loops import batches, loss_of, model, textbook
from tests.promises.test_changes_nothing import Loop, loops, same, train
from tests.promises.test_does_not_stall_the_device import Reads
from tests.sinks.board import Board, watched


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=40)
@given(loops)
def test_watched_equals_bare_bit_for_bit(loop: Loop) -> None:
    bare = train(loop)
    with tempfile.TemporaryDirectory() as folder:
        sink = TensorBoard(folder, every=1, ratios_every=1, histograms_every=1)
        with loopkit.watch(skip=["console"], plugins=[sink]) as run:
            seen = train(loop)
    assert not run.failures
    assert same(bare, seen)


# -- the disk --------------------------------------------------------------------------------------------


def test_a_full_disk_does_not_stop_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tensorboard.summary.writer import record_writer

    records: Any = record_writer.RecordWriter
    written = records.write
    count = 0

    def full(self: Any, data: bytes) -> None:
        nonlocal count
        count += 1
        if count > 5:
            raise OSError(28, "No space left on device")
        written(self, data)

    monkeypatch.setattr(records, "write", full)
    with loopkit.watch(skip=["console"], plugins=[TensorBoard(tmp_path, every=1)]) as run:
        textbook(20)
    assert (run.steps, run.failures) == (20, [])
    said = capsys.readouterr().err
    assert said.count("No space left on device") == 1
    assert "training goes on" in said
    assert "Traceback" not in said
    Board(tmp_path)  # what was written can be read


def test_a_slow_disk_drops_and_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from loopkit_plugins.sinks.tensorboard import summaries

    monkeypatch.setattr(writer, "_WAITING", 10)
    stuck = threading.Event()
    slow = writer.Writer(tmp_path)

    def late() -> Any:
        stuck.wait(60)
        return summaries.scalars([("late", 1.0)])

    slow.add(0, late)
    for step in range(30):
        slow.add(step, late)  # returns at once
    assert 19 <= slow.dropped <= 21  # the first may or may not have been taken out of the queue
    stuck.set()
    slow.close()
    assert f"{slow.dropped} entries were dropped" in capsys.readouterr().err
    assert Board(tmp_path).tags() == ["late"]


def test_the_thread_ends_with_the_run(tmp_path: Path) -> None:
    watched(tmp_path, textbook)
    assert not [each for each in threading.enumerate() if each.name == "loopkit-tensorboard"]


# -- the device ------------------------------------------------------------------------------------------


def hundred() -> None:
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for x, y in batches(100):
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        loopkit.log("train/thing", next(net.parameters()).mean())
        optimizer.step()


def test_one_transfer_an_interval_and_none_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[int] = []
    fetch = readings.fetch

    def counting(tensors: Any) -> Any:
        if tensors:
            fetched.append(len(tensors))
        return fetch(tensors)

    monkeypatch.setattr(readings, "fetch", counting)
    monkeypatch.setattr(optimizers, "fetch", counting)
    options = {"ratios_every": None, "histograms_every": None}
    watched(tmp_path, hundred, **options)
    assert len(fetched) == 2 * 11  # updates 1, 10, 20, …: the scalars, and the metrics that waited


def test_no_value_is_read_apart(tmp_path: Path) -> None:
    def reads(loop: Callable[[], Any]) -> int:
        torch.manual_seed(0)
        with Reads() as counted:
            loop()
        return int(counted.count)

    bare = reads(hundred)
    assert reads(lambda: watched(tmp_path, hundred)) == bare


def test_nothing_of_the_loop_is_kept_alive(tmp_path: Path) -> None:
    import gc
    import weakref

    with loopkit.watch(skip=["console"], plugins=[TensorBoard(tmp_path, every=1)]):
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for x, y in batches(3):
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
        every: list[object] = [net, optimizer, *net.parameters()]
        gone = [weakref.ref(each) for each in every]
        del every
        del net, optimizer
        gc.collect()
        assert not [each for each in gone if each() is not None]


def test_loading_the_sink_draws_no_random_number(tmp_path: Path) -> None:
    states = torch.get_rng_state(), random.getstate()
    watched(tmp_path, lambda: None)
    assert same([torch.get_rng_state(), random.getstate()], list(states))


# -- laws ------------------------------------------------------------------------------------------------


@given(st.one_of(st.none(), st.integers(1, 60)), st.lists(st.integers(1, 5), min_size=1, max_size=300))
def test_a_schedule_misses_nothing_and_repeats_nothing(every: int | None, gaps: list[int]) -> None:
    early = (1, 3, 10, 30)
    schedule = Schedule(every, early)
    update = last = 0
    for gap in gaps:  # the steps of one optimizer of several
        update += gap
        wanted = every is not None and any(last < each <= update for each in (*early, *range(every, 2000, every)))
        assert schedule.due(update) == wanted
        if wanted:
            schedule.done(update)
            last = update


@given(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["weight", "bias"])), unique=True, min_size=1, max_size=20),
    st.integers(1, 12),
)
def test_what_is_shown_is_bounded_and_in_order(spots: list[tuple[int, str]], limit: int) -> None:
    tensors = {"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}
    names = [(f"layers.{layer}.{kind}", tensors[kind]) for layer, kind in sorted(spots)]
    every = [Named(name, layer_of(name), tensor) for name, tensor in names]
    found = shown(every, limit)
    assert 0 < len(found) <= limit
    assert [each.name for each in every if each in found] == [each.name for each in found]
    if len(every) <= limit:
        assert found == every


@given(st.lists(st.text(), unique=True, min_size=1, max_size=50), st.integers(1, 60))
def test_evenly_keeps_the_ends(items: list[str], count: int) -> None:
    found = evenly(items, count)
    assert len(found) == len(set(found)) == min(count, len(items))
    assert found[0] == items[0]
    assert count == 1 or found[-1] == items[-1]
    assert found == [each for each in items if each in found]


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("bert.encoder.layer.0.attention.self.query.weight", "bert.encoder.layer.0"),
        ("bert.embeddings.word_embeddings.weight", "bert.embeddings"),
        ("layer1.0.conv1.weight", "layer1.0"),
        ("0.weight", "0"),
        ("fc.bias", "fc"),
        ("weight", "weight"),
        ("group0.3", "group0"),
    ],
)
def test_layers(name: str, layer: str) -> None:
    assert layer_of(name) == layer
    assert list(layers([Named(name, layer_of(name), torch.zeros(1))])) == [layer]


def test_the_clock_divides_an_update(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(clock, "_now", lambda: now)
    times = Clock()

    def later(seconds: float, event: Callable[..., None], *arguments: Any) -> None:
        nonlocal now
        now += seconds
        event(*arguments)

    for closure in (False, False, True):
        for _ in range(2):  # micro-batches
            later(1, times.batch)
            later(2, times.forward, True)
            later(4, times.backward_began)
            later(8, times.backward_ended)
        later(16, times.step_began)
        if closure:
            later(0, times.forward, True)
            later(100, times.backward_began)
            later(0, times.backward_ended)
        later(32, times.step_ended)
    later(1, times.batch)  # an evaluation: its batches are no training data
    for _ in range(5):
        later(64, times.forward, False)
        later(1, times.batch)
    assert dict(times.take()) == {
        "time/data": 2,
        "time/forward": 58,  # the median of 8 and 108
        "time/backward": 16,
        "time/optimizer": 32,
        "time/update": 128,
    }
    assert times.take() == []
