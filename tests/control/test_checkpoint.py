"""Checkpoints: what they hold, that there is always a whole one, and that signals leave one behind."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import loopkit
from loopkit import UsageError, hookimpl
from loopkit_plugins.control import Checkpoint, EarlyStopping
from loopkit_plugins.control.checkpoint import CheckpointError, files, latest, load, restore
from tests.cli.command import environment
from tests.control.test_evaluations import data, epoch
from tests.loops import adamw, model
from tests.promises.test_changes_nothing import same


class Training:
    """A small loop that can be continued: model, optimizer, schedule, random batches."""

    def __init__(self) -> None:
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 2))
        self.optimizer = adamw(self.net)
        self.scheduler = torch.optim.lr_scheduler.MultiStepLR(self.optimizer, [3, 7], gamma=0.5)

    def steps(self, count: int) -> None:
        for _ in range(count):
            x = torch.randn(6, 4) + random.random()
            self.optimizer.zero_grad()
            F.mse_loss(self.net(x), x[:, :2]).backward()
            self.optimizer.step()
            self.scheduler.step()

    def state(self) -> list[Any]:
        states = [self.net.state_dict(), self.optimizer.state_dict(), self.scheduler.state_dict()]
        return [*states, torch.get_rng_state(), random.getstate()]

    def restore(self, path: Path, **more: Any) -> dict[str, Any]:
        return restore(path, model=self.net, optimizer=self.optimizer, scheduler=self.scheduler, **more)


def watched(plugins: list[Any], loop: Callable[[], Any]) -> Any:
    with loopkit.watch(plugins=plugins, autoload=False) as run:
        loop()
    assert not run.failures
    return run


@pytest.mark.parametrize("at", [1, 4, 8])
def test_a_run_continued_from_its_checkpoint_ends_as_the_whole_run_bit_for_bit(tmp_path: Path, at: int) -> None:
    torch.manual_seed(5)
    random.seed(5)
    whole = Training()
    watched([Checkpoint(tmp_path, every=at, keep_last=99)], lambda: whole.steps(10))
    expected = whole.state()
    torch.manual_seed(99)
    again = Training()
    assert again.restore(tmp_path / files.last_name(at))["step"] == at
    again.steps(10 - at)
    assert same(again.state(), expected)


def test_a_watched_loop_with_checkpoints_ends_as_a_bare_one(tmp_path: Path) -> None:
    ends = []
    for plugins in ([], [Checkpoint(tmp_path, monitor="val/loss", every=2)]):
        torch.manual_seed(5)
        random.seed(5)
        training = Training()
        with loopkit.watch(plugins=plugins, autoload=False):
            training.steps(5)
        ends.append(training.state())
    assert same(*ends)


def test_last_ones_are_kept_and_the_best_is_that_of_its_evaluation(tmp_path: Path) -> None:
    net, train, val = model(), data(), data()
    optimizer = adamw(net)
    stopper = EarlyStopping("val/loss", patience=99)
    bests: list[Any] = []

    def loop() -> None:
        for i in range(4):
            epoch(net, optimizer, train, lambda output, target: F.mse_loss(output, target + 9))
            if i == 0:
                bests.append({key: value.clone() for key, value in net.state_dict().items()})
            with torch.no_grad():
                for x, y in val:
                    F.mse_loss(net(x), y - 9)  # worse and worse

    watched([stopper, Checkpoint(tmp_path, monitor="val/loss", keep_last=2)], loop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "step-00000009.pt", "step-00000012.pt"]
    assert latest(tmp_path) == tmp_path / "step-00000012.pt"
    best = load(tmp_path / "best.pt")
    assert best["step"] == 3
    assert same(best["models"][0]["state"], bests[0])
    again = EarlyStopping("val/loss")
    restore(tmp_path / "best.pt", plugins=[again], random=False)
    assert again.state_dict() | {"seen": 1} == stopper.state_dict() | {"wait": 0, "seen": 1}


def test_a_plain_loop_without_evaluations_has_a_checkpoint_an_epoch(tmp_path: Path) -> None:
    net, train = model(), data()
    optimizer = adamw(net)

    def loop() -> None:
        for _ in range(3):
            epoch(net, optimizer, train)

    watched([Checkpoint(tmp_path, keep_last=9)], loop)
    assert [load(path)["step"] for path in files.steps_in(tmp_path)] == [9, 6, 3]


def test_what_is_no_whole_checkpoint_is_refused_and_the_one_before_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = Training()
    watched([Checkpoint(tmp_path, every=1, keep_last=9)], lambda: training.steps(3))
    two, three = tmp_path / files.last_name(2), tmp_path / files.last_name(3)
    whole = three.read_bytes()
    for content in (whole[: len(whole) // 2], b"", whole[:900] + bytes([whole[900] ^ 255]) + whole[901:]):
        three.write_bytes(content)
        with pytest.raises(CheckpointError, match="older"):
            load(three)
        assert latest(tmp_path) == two
        assert "left out" in capsys.readouterr().err
    torch.save({"model": training.net.state_dict()}, three)
    with pytest.raises(CheckpointError, match="was not written by loopkit"):
        load(three)
    torch.save(training.net, three)
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        load(three)
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load(tmp_path / "absent.pt")
    assert latest(tmp_path / "empty") is None


def test_a_checkpoint_of_another_model_names_the_keys_and_changes_nothing(tmp_path: Path) -> None:
    watched([Checkpoint(tmp_path, every=1)], lambda: Training().steps(1))
    path, other = tmp_path / files.last_name(1), nn.Sequential(nn.Linear(4, 9), nn.Tanh())
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(CheckpointError) as refused:
        restore(path, model=other)
    text = str(refused.value)
    assert "of another shape: 0.weight ((8, 4) there, (9, 4) here)" in text
    assert "only in the checkpoint: 1.weight" in text
    assert same(dict(other.state_dict()), before)
    net = Training().net
    with pytest.raises(CheckpointError, match="optimizers AdamW, here are SGD"):
        restore(path, model=net, optimizer=torch.optim.SGD(net.parameters()))
    with pytest.raises(CheckpointError, match="1 models, here are 2"):
        restore(path, model=[net, net])


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    training, own = Training(), os.fsync

    def full(handle: int) -> None:
        if run.steps >= 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        own(handle)

    monkeypatch.setattr(os, "fsync", full)
    with loopkit.watch(plugins=[Checkpoint(tmp_path, every=1)], autoload=False) as run:
        training.steps(4)
    assert run.steps == 4
    assert [path.name for path in tmp_path.iterdir()] == [files.last_name(1)]
    assert load(tmp_path / files.last_name(1))["step"] == 1
    assert capsys.readouterr().err.count("No space left on device): training goes on") == 1


def test_a_file_that_may_not_grow_is_the_same(tmp_path: Path) -> None:
    import resource

    training, before = Training(), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        watched([Checkpoint(tmp_path, every=1)], lambda: training.steps(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="name another folder"):
        Checkpoint(tmp_path / "file" / "folder")
    for options in ({"every": 0}, {"every": "step"}, {"keep_last": 0}, {"mode": "best"}):
        with pytest.raises(UsageError, match="Checkpoint"):
            Checkpoint(tmp_path, **options)


class Odd:
    @hookimpl
    def run_started(self) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {"how": object()}


def test_a_state_that_cannot_be_stored_is_left_out_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watched([Odd(), Checkpoint(tmp_path, every=1)], lambda: Training().steps(2))
    told = "checkpoints leave out: the state of Odd['how'] is a object"
    assert capsys.readouterr().err.count(told) == 1
    assert load(tmp_path / files.last_name(2))["step"] == 2


def _write_for_ever(folder: str, ready: Any) -> None:
    torch.set_num_threads(1)
    training = Training()
    with loopkit.watch(plugins=[Checkpoint(folder, every=1)], autoload=False):
        training.steps(2)  # the first is written when the second begins
        ready.set()
        training.steps(10**9)


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for i in range(8):
        folder, ready = tmp_path / str(i), context.Event()
        child = context.Process(target=_write_for_ever, args=(str(folder), ready))
        child.start()
        assert ready.wait(60)
        time.sleep(random.random() / 20)
        assert child.pid
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        found = files.steps_in(folder)
        assert found
        assert latest(folder) == found[0]  # not one of those that bear their name is torn
        assert load(found[0])["step"] >= 1


SCRIPT = """
import sys, time, torch
torch.set_num_threads(1)
net = torch.nn.Linear(4, 2)
optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
for i in range(10**9):
    optimizer.zero_grad()
    net(torch.randn(3, 4)).square().mean().backward()
    if i == 3:
        print("ready", flush=True)
    time.sleep(0.005)  # gradients wait for their step most of the time
    optimizer.step()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_step_writes_and_leaves(tmp_path: Path, number: signal.Signals, code: int) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "keeping.py").write_text(
        "from loopkit_plugins.control import Checkpoint\nkeep = Checkpoint('kept', every=10**9)\n"
    )
    command = [sys.executable, "-m", "loopkit", "run", "--plugin", "keeping:keep", "train.py"]
    # A test run in the background may have SIGINT ignored, which children inherit.
    head = "import os, signal; signal.signal(2, signal.default_int_handler); "
    pipe, code_ = subprocess.PIPE, f"{head}os.execv({command[0]!r}, {command!r})"
    child = subprocess.Popen(
        [sys.executable, "-c", code_], cwd=tmp_path, stdout=pipe, stderr=pipe, text=True, env=environment()
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(number)
    _, err = child.communicate(timeout=60)
    assert child.returncode == code, err
    (path,) = (tmp_path / "kept").iterdir()
    content = load(path)
    assert path.name == files.last_name(content["step"])
    assert f"{content['step']} optimizer steps watched" in err  # it left after a whole step, and there is a report
    assert content["optimizers"][0]["class"] == "SGD"


def test_signals_are_as_before_when_the_run_is_over(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with loopkit.watch(plugins=[Checkpoint(tmp_path)], autoload=False):
        assert signal.getsignal(signal.SIGTERM) is not before[1]
        with loopkit.watch(plugins=[Checkpoint(tmp_path)], autoload=False):
            pass
        assert signal.getsignal(signal.SIGTERM) is not before[1]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


class FakeLoop:
    """As much of a `Loop` as a checkpoint knows."""

    def __init__(self) -> None:
        self.loaded: Any = None

    def state_dict(self) -> dict[str, Any]:
        return {"updates": 3, "pass": None, "model": {"weight": torch.ones(2)}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loaded = state


def test_in_a_loop_its_own_state_is_stored_when_it_logs_its_numbers(tmp_path: Path) -> None:
    loop, training = FakeLoop(), Training()
    with loopkit.watch(plugins=[Checkpoint(tmp_path, every=2, keep_last=9)], autoload=False) as run:
        run.loop, run.step_offset = loop, 10
        training.steps(3)
        assert list(tmp_path.iterdir()) == []
        loopkit.log("train/loss", 1.0)
        assert [path.name for path in tmp_path.iterdir()] == [files.last_name(13)]
    other = FakeLoop()
    restore(tmp_path / files.last_name(13), loop=other)
    assert same(other.loaded, loop.state_dict())
