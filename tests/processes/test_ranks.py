"""Ranks of torchrun: one report for all of them, whoever ends first or does not end at all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import loopkit
from loopkit import processes, ranks
from tests.cli.command import Result, environment
from tests.loops import textbook
from tests.processes import loops

SCRIPT = """
import os, signal, sys, time
import torch, torch.distributed as dist
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, how = dist.get_rank(), sys.argv[1]
net = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for step in range(1000 if how == "killed" else 6):
    if rank == 0 and how != "both":
        optimizer.zero_grad()
    net(torch.ones(2, 3)).mean().backward()
    optimizer.step()
    if rank == 1 and how == "raise" and step == 4:
        raise ValueError("rank 1's own error")
    if rank == 1 and how == "killed" and step == 4:
        time.sleep(3)  # rank 0 looks at its 1st, 2nd, 4th, 8th ... update, and has some of them meanwhile
        os.kill(os.getpid(), signal.SIGKILL)
    if rank == 1 and how == "leaves" and step == 4:
        os._exit(0)
    if rank == 0 and how == "killed":
        time.sleep(0.05)
if how == "raise" and rank == 0:
    time.sleep(60)
if how in ("rank 1", "both"):
    dist.barrier()
    dist.destroy_process_group()
os.write(1, b"end %d\\n" % rank)
sys.exit(0)
"""
BACKWARD = 1 + SCRIPT.splitlines().index("    net(torch.ones(2, 3)).mean().backward()")


def _torchrun(folder: Path, how: str) -> tuple[Result, Any]:
    (folder / "train.py").write_text(SCRIPT)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [*launcher, "-m", "loopkit", "run", "--format", "json", "--output", "out.json", "train.py", how]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    out = folder / "out.json"
    return Result(done.returncode, done.stdout, done.stderr), json.loads(out.read_text()) if out.exists() else None


@pytest.mark.parametrize("how", ["rank 1", "both"])
def test_rank_0_reports_what_rank_1_found(tmp_path: Path, how: str) -> None:
    done, report = _torchrun(tmp_path, how)
    assert done.code == 0  # an exit of 1 would make the launcher restart the job
    assert sorted(done.out.split("\n")) == ["", "end 0", "end 1"]
    (finding,) = report["findings"]
    assert (finding["rule"], finding["line"]) == ("missing-zero-grad", BACKWARD)
    assert (finding["rank"], finding["evidence"].get("ranks")) == ((1, [1]) if how == "rank 1" else (0, [0, 1]))
    assert finding["count"] == (5 if how == "rank 1" else 10)
    assert (report["finished"], report["steps"], report["processes"]) == (True, 12, 2)
    assert done.err.count("missing-zero-grad  (proof") == 1
    assert "12 optimizer steps watched in 2 processes: 1 error" in done.err
    assert f"in {finding['count']} updates, {'rank 1' if how == 'rank 1' else 'ranks 0, 1'}" in done.err


def test_a_rank_that_fails_reports_since_its_launcher_kills_the_others(tmp_path: Path) -> None:
    done, _ = _torchrun(tmp_path, "raise")
    assert done.code == 1
    assert "rank 1's own error" in done.err
    assert f"train.py:{BACKWARD}  error  missing-zero-grad  (proof, step 2, rank 1)" in done.err
    assert "1 error" in done.err


def test_a_rank_that_leaves_by_os_exit_has_told_what_it_found(tmp_path: Path) -> None:
    done, report = _torchrun(tmp_path, "leaves")
    assert done.code == 0
    (finding,) = report["findings"]
    assert (finding["rule"], finding["rank"], report["finished"]) == ("missing-zero-grad", 1, True)
    assert any("rank 1 ended early" in note["why"] for note in report["not_checked"])


def test_ranks_that_are_all_killed_have_told_what_one_of_them_found(tmp_path: Path, scratch: Path) -> None:
    done, report = _torchrun(tmp_path, "killed")
    assert done.code == 1
    (finding,) = report["findings"]
    assert (finding["rule"], finding["rank"], report["finished"]) == ("missing-zero-grad", 1, False)
    for left in scratch.glob("loopkit-*"):
        shutil.rmtree(left)  # nobody lived to do it


# -- one process at a time, as torchrun would start it ---------------------------------------------------


@pytest.fixture
def as_rank(monkeypatch: pytest.MonkeyPatch) -> Any:
    def be(rank: int, size: int = 2) -> None:
        values = {"RANK": rank, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size, "TORCHELASTIC_RUN_ID": "test"}
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    return be


def test_a_rank_alone_on_its_machine_is_like_no_rank(as_rank: Any) -> None:
    as_rank(0, size=1)
    assert ranks.launch() is None
    assert ranks.leads()
    as_rank(1)
    assert not ranks.leads()
    assert ranks.rank() == 1


def test_rank_1_tells_by_itself_where_rank_0_opens_no_watch(as_rank: Any, capsys: pytest.CaptureFixture[str]) -> None:
    as_rank(1)
    with loopkit.watch():
        loops.never_clears()
        assert capsys.readouterr().err == ""  # it is not known yet who will tell
    told = capsys.readouterr().err
    assert told.count("missing-zero-grad  (proof, step 2, rank 1)") == 1
    assert "4 optimizer steps watched: 1 error" in told


def test_a_program_waits_for_its_children_as_python_would(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import multiprocessing, time\n"
        "from tests.processes.loops import never_clears\n"
        "def late():\n    time.sleep(0.5)\n    never_clears()\n"
        "multiprocessing.get_context('fork').Process(target=late).start()\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "loopkit", "run", str(script)],
        cwd=tmp_path,
        env=environment(
            PYTHONPATH=os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
        ),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "missing-zero-grad  (proof, step 2, in ForkProcess-1)" in done.stderr
    assert done.returncode == 1


@pytest.fixture
def rank_1(as_rank: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[int]:
    """A process of the same launch that has a bug, and then stands still inside its watch; its number."""
    parent = os.getpid()
    monkeypatch.setattr(os, "getppid", lambda: parent)  # both are children of one launcher
    as_rank(1)
    pid = os.fork()
    if pid == 0:
        with (tmp_path / "told.txt").open("w") as sys.stderr, loopkit.watch():
            loops.never_clears(steps=3)
            os.kill(os.getpid(), signal.SIGSTOP)
            loops.never_clears(steps=3)
        os._exit(0)
    os.waitpid(pid, os.WUNTRACED)
    as_rank(0)
    yield pid
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ChildProcessError, ProcessLookupError):
        pass  # it has ended


def test_a_rank_that_runs_is_waited_for_but_not_for_ever(
    rank_1: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(processes, "PATIENCE", 0.3)
    began = time.monotonic()
    with loopkit.watch(skip=["console"]) as run:
        textbook(1)
    assert time.monotonic() - began >= 0.3
    assert [finding.rank for finding in run.findings] == [1]
    assert any("rank 1 had not ended" in why for _, why in run.not_checked())
    assert (tmp_path / "told.txt").read_text() == ""
    os.kill(rank_1, signal.SIGCONT)
    assert os.waitpid(rank_1, 0)[1] == 0
    told = (tmp_path / "told.txt").read_text()  # what could no longer be read, it tells by itself
    assert "missing-zero-grad  (proof, step 2, rank 1)" in told
    assert "6 optimizer steps watched" in told


def test_waiting_ends_with_the_rank(rank_1: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PATIENCE", 60.0)
    threading.Timer(0.2, os.kill, (rank_1, signal.SIGKILL)).start()
    began = time.monotonic()
    with loopkit.watch(skip=["console"]) as run:
        textbook(1)
    assert time.monotonic() - began < 30
    assert any("rank 1 ended early" in why for _, why in run.not_checked())


def test_rank_0_that_fails_waits_for_nobody(rank_1: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PATIENCE", 60.0)
    began = time.monotonic()
    with pytest.raises(KeyError), loopkit.watch(skip=["console"]) as run:
        raise KeyError  # the launcher kills the others once we are gone
    assert time.monotonic() - began < 30
    assert [finding.rank for finding in run.findings] == [1]
