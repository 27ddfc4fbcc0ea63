"""Loops in child processes: found, told once by the parent, and nothing else is different."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing.spawn import spawn
from torch.utils.data import DataLoader

import loopkit
from loopkit import Finding, Run, hookimpl
from tests.loops import adamw, batches, loss_of, model, textbook
from tests.processes import loops
from tests.watched import line_of

QUIET = ["console"]


def _bare_fork(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _start(work: Callable[..., None], how: str = "fork", count: int = 1, *args: Any) -> list[int | None]:
    """Run `work` in children; their exit codes."""
    context: Any = multiprocessing.get_context(how)
    children = [context.Process(target=work, args=args) for _ in range(count)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    return [child.exitcode for child in children]


def _torch_spawn(work: Callable[..., None]) -> None:
    spawn(work, nprocs=2)


@pytest.mark.parametrize(
    ("start", "children"),
    [
        (_bare_fork, 1),
        (lambda work: _start(work, "fork"), 1),
        (lambda work: _start(work, "spawn"), 1),
        (lambda work: _start(work, "forkserver"), 1),
        (_torch_spawn, 2),
    ],
    ids=["os.fork", "fork", "spawn", "forkserver", "torch.multiprocessing.spawn"],
)
def test_a_bug_in_a_child_is_in_the_parents_report(start: Callable[[Any], Any], children: int) -> None:
    heard: list[Finding] = []

    class Sink:
        @hookimpl
        def finding_reported(self, finding: Finding) -> None:
            heard.append(finding)

    with loopkit.watch(plugins=[Sink()], skip=QUIET) as run:
        start(loops.never_clears)
    (finding,) = run.findings
    assert finding.rule == "missing-zero-grad"
    assert finding.place is not None
    assert finding.place.line == line_of(loops.never_clears, "backward()")
    assert finding.step == 2
    assert len(finding.evidence["processes"]) == children
    assert heard == [finding]
    if start is not _bare_fork:  # which ends by os._exit: its last update is not judged
        assert finding.count == 3 * children
        assert run.steps_by_process() == [4] * children
        assert run.rows() == [("forward → backward → step", 4 * children)]
    assert len(run.steps_by_process()) == children


def test_parent_and_child_with_one_bug_make_one_finding() -> None:
    with loopkit.watch(skip=QUIET) as run:
        loops.never_clears()
        _start(loops.never_clears)
    (finding,) = run.findings
    assert (finding.count, run.steps_by_process()) == (6, [4, 4])
    assert finding.evidence["processes"][1:] == ["this process"]


def test_a_child_that_is_killed_has_told_what_it_found() -> None:
    with loopkit.watch(skip=QUIET) as run:
        assert _start(loops.is_killed) == [-9]
    assert [finding.rule for finding in run.findings] == ["missing-zero-grad"]
    assert any("ended early (killed, or by os._exit)" in why for _, why in run.not_checked())


def test_a_child_that_is_killed_and_not_waited_for_is_not_taken_for_living() -> None:
    with loopkit.watch(skip=QUIET) as run:
        pid = os.fork()
        if pid == 0:
            loops.is_killed()
        loops.wait_for(pid)
    os.waitpid(pid, 0)
    assert any("ended early" in why for _, why in run.not_checked())


@pytest.mark.parametrize(("work", "code"), [(loops.leaves_at_once, 5), (loops.raises, 1)])
def test_a_childs_exit_code_is_its_own(
    work: Callable[..., None], code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with loopkit.watch(skip=QUIET) as run:
        assert _start(work) == [code]
    assert [finding.rule for finding in run.findings] == ["missing-zero-grad"]
    told = capfd.readouterr().err
    assert ("a child's own error" in told) == (code == 1)
    assert "loopkit" not in told.replace(str(Path(__file__).parents[2]), "").replace("loopkit/tests", "")


def test_many_children_on_one_shared_model() -> None:
    net = model()
    net.share_memory()
    with loopkit.watch(skip=QUIET) as run:
        assert _start(loops.trains_the_shared, "fork", 12, net) == [0] * 12
    (finding,) = run.findings
    assert len(finding.evidence["processes"]) == 12
    assert (run.steps_by_process(), finding.count) == ([3] * 12, 24)


def test_a_childs_child_is_heard() -> None:
    with loopkit.watch(skip=QUIET) as run:
        _start(loops.has_a_child)
    assert [finding.rule for finding in run.findings] == ["missing-zero-grad"]


def test_a_watch_that_a_child_opens_joins_the_run() -> None:
    with loopkit.watch(skip=QUIET) as run:
        _start(loops.opens_a_watch)
        _start(loops.opens_a_watch, "spawn")
    (finding,) = run.findings
    assert len(finding.evidence["processes"]) == 2


def test_a_childs_findings_are_selected_and_silenced_as_the_parents_are() -> None:
    with loopkit.watch(ignore=["missing-zero-grad"], skip=QUIET) as run:
        _start(loops.never_clears)
    assert run.findings == []
    assert [reason for _, reason in run.silenced] == ["ignored by name"]
    with loopkit.watch(skip=QUIET) as run:
        _start(loops.silenced)
    assert run.findings == []
    assert [reason for _, reason in run.silenced] == ["a sum is meant"]


class CannotLook:
    """A check that finds itself unable."""

    rule = "cannot-look"

    @hookimpl
    def update_finished(self, run: Run) -> None:
        run.could_not_check(self.rule, "it is dark")


def test_what_a_child_could_not_check_and_what_failed_in_it_is_said() -> None:
    with loopkit.watch(plugins=[CannotLook, Fails], skip=QUIET) as run:
        _start(loops.trains_well)
        _start(loops.trains_well, "spawn")
    assert run.notes().count(("cannot-look", "it is dark")) == 1
    assert [(failure.plugin, failure.error) for failure in run.failures] == [("fails", "ZeroDivisionError: 1")]


class Fails:
    """A check that breaks, in a child alone: the parent does not train."""

    rule = "fails"

    @hookimpl
    def update_finished(self) -> None:
        raise ZeroDivisionError(1)


class Needs:
    """A check that cannot be made without its argument."""

    rule = "needs-a-number"

    def __init__(self, number: int) -> None:
        self.number = number

    @hookimpl
    def update_finished(self, run: Run) -> None:
        pass


def test_a_check_that_cannot_be_made_anew_is_said_not_to_have_looked() -> None:
    with loopkit.watch(plugins=[Needs(3)], skip=QUIET) as run:
        _start(loops.trains_well)
    assert [rule for rule, why in run.not_checked() if "cannot be made anew" in why] == ["needs-a-number"]
    assert not run.failures


def test_a_check_of_the_users_own_looks_in_forked_and_spawned_children() -> None:
    with loopkit.watch(plugins=[CountsSteps], skip=QUIET) as run:
        _start(loops.trains_well)
        _start(loops.trains_well, "spawn")
    (finding,) = run.findings
    assert (finding.rule, len(finding.evidence["processes"])) == ("counts-steps", 2)


class CountsSteps:
    """A check that tells late, and has evidence that JSON cannot hold."""

    rule = "counts-steps"

    @hookimpl
    def run_finished(self, run: Run) -> Finding | None:
        from loopkit import Confidence, Severity

        if not run.steps:
            return None
        evidence = {"odd": object()}
        return Finding(
            self.rule, Severity.INFO, Confidence.FACT, f"{run.steps} steps", "because", "nothing", evidence=evidence
        )


def test_a_child_that_outlives_the_run_is_left_alone() -> None:
    context = multiprocessing.get_context("fork")
    ours, its = context.Pipe()
    with loopkit.watch(skip=QUIET) as run:
        child = context.Process(target=loops.trains_when_told, args=(its,), daemon=True)
        child.start()
        assert ours.recv()
    assert [finding.count for finding in run.findings] == [2]
    assert any("had not ended" in why for _, why in run.not_checked())
    ours.send("go on")
    assert ours.recv() == (True, "torch.autograd")
    child.join()
    assert child.exitcode == 0


def test_children_train_unwatched_where_no_folder_can_be_made(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(**_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with loopkit.watch(skip=QUIET) as run:
        assert _start(loops.never_clears) == [0]
        assert _start(loops.never_clears, "spawn") == [0]
        textbook(2)
    assert run.findings == []
    assert ("*", "other processes are not heard: [Errno 13] Permission denied") in run.not_checked()
    assert "rror" not in capfd.readouterr().err


def test_a_folder_that_vanishes_disturbs_nobody(scratch: Path) -> None:
    import shutil

    with loopkit.watch(skip=QUIET) as run:
        _start(loops.trains_well)
        (folder,) = scratch.glob("loopkit-*")
        shutil.rmtree(folder)
        assert _start(loops.never_clears) == [0]
        assert _start(loops.never_clears, "spawn") == [0]
    assert not run.failures


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_workers_of_a_loader_are_not_watched(how: str) -> None:
    told = []
    with loopkit.watch(skip=QUIET) as run:
        net = model()
        optimizer = adamw(net)
        for told_by in DataLoader(loops.TellsWhatWatchesIt(), 4, num_workers=2, multiprocessing_context=how):
            told += told_by.tolist()
            optimizer.zero_grad()
            loss_of(net(torch.ones(4, 4)), torch.ones(4, 2)).backward()
            optimizer.step()
    assert told == [[False, True]] * 8  # not watched; it would be if it trained
    assert (run.steps_by_process(), run.findings) == ([2], [])
    assert not any(rule == "*" for rule, _ in run.not_checked())


def test_a_run_without_children_touches_no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> str:
        raise AssertionError("a folder was made")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with loopkit.watch(skip=QUIET):
        textbook(2)


def test_a_child_starts_though_it_cannot_import_loopkit(tmp_path: Path) -> None:
    from loopkit.asleep import Ticket
    from loopkit.processes import _Handed

    handed = pickle.dumps(_Handed(Ticket("/nowhere", (), ())))
    assert b"loopkit.processes" not in handed  # found by name, it would not arrive where there is no loopkit
    broken = handed.replace(b"loopkit.joining", b"loopkit.nothing")
    assert broken != handed
    assert pickle.load(io.BytesIO(broken)) is None


def test_training_in_a_child_is_what_it_is_without_a_watch() -> None:
    assert _trained_in_a_child(watched=True) == _trained_in_a_child(watched=False)


def _trained_in_a_child(*, watched: bool) -> str:
    context = multiprocessing.get_context("fork")
    ours, its = context.Pipe()

    def work() -> None:
        torch.manual_seed(1)
        net = model()
        optimizer = adamw(net)
        for x, y in batches(5):
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()
        its.send(json.dumps([p.tolist() for p in net.parameters()] + [torch.get_rng_state().tolist()]))

    child = context.Process(target=work)
    if watched:
        with loopkit.watch(skip=QUIET) as run:
            child.start()
            told: str = ours.recv()
            child.join()
        assert run.steps_by_process() == [5]
    else:
        child.start()
        told = ours.recv()
        child.join()
    return told
