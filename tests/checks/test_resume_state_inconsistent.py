"""resume-state-inconsistent: found where it is, silent on what looks like it.

What the script's code looks up in a checkpoint counts, so each loop is a script of its own.
"""

from __future__ import annotations

import linecache
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

from loopkit import Confidence, Finding, Severity
from tests.watched import find

RULE = "resume-state-inconsistent"

HEAD = """
import io, torch
from torch import nn
from tests.loops import batches, loss_of, model

class Session:
    def __init__(self, rate=0.01, make=torch.optim.OPTIMIZER, net=None, schedule=8):
        self.net = net or model()
        self.opt = make(self.net.parameters(), lr=rate)
        self.sched = torch.optim.lr_scheduler.CosineAnnealingLR(self.opt, T_max=schedule) if schedule else None

    def train(self, steps=4):
        for x, y in batches(steps):
            self.opt.zero_grad()
            loss_of(self.net(x), y).backward()
            self.opt.step()
            if self.sched:
                self.sched.step()

    def save(self, file=None):
        file = file or io.BytesIO()
        state = dict(net=self.net.state_dict(), opt=self.opt.state_dict(), step=4)
        if self.sched:
            state.update(sched=self.sched.state_dict())
        torch.save(state, file)
        if hasattr(file, "seek"):
            file.seek(0)
        return file

first = Session(schedule=SCHEDULE)
first.train()
saved = first.save()
"""
NO_SCHEDULER = """
second = Session(schedule=SCHEDULE)
state = torch.load(saved, weights_only=False)
second.opt.load_state_dict(state["opt"])
second.net.load_state_dict(state["net"])
second.train()
"""
NO_OPTIMIZER = """
second = Session(schedule=SCHEDULE)
state = torch.load(saved, weights_only=False)
second.net.load_state_dict(state["net"])
second.train(8 - state["step"])
"""

REST = 'second.net.load_state_dict(state["net"])'


def script(folder: Path, body: str, schedule: int = 0, optimizer: str = "AdamW") -> Callable[[], object]:
    """The head and a body as a script that loopkit can read."""
    text = (HEAD + body).replace("SCHEDULE", str(schedule)).replace("OPTIMIZER", optimizer)
    path = folder / "train.py"
    path.write_text(text, encoding="utf-8")
    linecache.checkcache()
    return lambda: runpy.run_path(str(path), run_name="__main__")


def found(folder: Path, body: str, schedule: int = 0) -> list[Finding]:
    return find(script(folder, body, schedule), select=[RULE])


def _snapshot() -> None:
    import torch

    from tests.loops import adamw, batches, loss_of, model

    def run(net: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
        for x, y in batches(steps):
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()

    import io

    net = model()
    optimizer = adamw(net)
    run(net, optimizer, 4)
    file = io.BytesIO()
    torch.save({"model": net.state_dict(), "adam": optimizer.state_dict(), "step": 4}, file)
    file.seek(0)
    net = model()
    optimizer = adamw(net)
    checkpoint = torch.load(file)
    net.load_state_dict(checkpoint["model"])
    run(net, optimizer, 8 - checkpoint["step"])


SNAPSHOTS = {RULE: _snapshot}


def line_in(folder: Path, text: str) -> int:
    lines = (folder / "train.py").read_text(encoding="utf-8").splitlines()
    (at,) = [n for n, line in enumerate(lines, 1) if text in line]
    return at


def test_a_scheduler_that_begins_again_beside_a_restored_optimizer_is_a_proof(tmp_path: Path) -> None:
    (finding,) = found(tmp_path, NO_SCHEDULER, 8)
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_in(tmp_path, "second.net.load_state_dict")
    assert '"sched" (the scheduler at 4)' in finding.seen


def test_an_optimizer_that_begins_again_beside_a_restored_scheduler_is_a_proof(tmp_path: Path) -> None:
    body = NO_SCHEDULER.replace(
        'second.opt.load_state_dict(state["opt"])', 'second.sched.load_state_dict(state["sched"])'
    )
    (finding,) = found(tmp_path, body, 8)
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.PROOF)
    assert finding.evidence["lost"] == ["opt"]


@pytest.mark.parametrize("schedule", [0, 8])
def test_weights_alone_are_a_warning_where_the_counter_goes_on(tmp_path: Path, schedule: int) -> None:
    (finding,) = found(tmp_path, NO_OPTIMIZER, schedule)
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.FACT)
    assert finding.evidence["lost"] == (["opt", "sched"] if schedule else ["opt"])


def test_weights_alone_are_a_warning_where_the_file_is_saved_again(tmp_path: Path) -> None:
    body = NO_OPTIMIZER.replace('8 - state["step"]', "4").replace("torch.load(saved", "torch.load(first.save(path)")
    body = f"path = {str(tmp_path / 'last.pt')!r}" + body + "second.save(path)\n"
    (finding,) = found(tmp_path, body)
    assert finding.severity is Severity.WARNING
    assert finding.evidence["continued"]


@pytest.mark.parametrize("change", ["saved = 8", "print(state['step'])", "print(f'{state[\"step\"]}')"])
def test_weights_alone_are_info_where_nothing_says_that_training_goes_on(tmp_path: Path, change: str) -> None:
    body = NO_OPTIMIZER.replace('second.train(8 - state["step"])', f"{change}\nsecond.train()")
    (finding,) = found(tmp_path, body)
    assert finding.severity is Severity.INFO


def test_another_function_that_reads_the_counter_says_nothing(tmp_path: Path) -> None:
    body = NO_OPTIMIZER.replace('8 - state["step"]', "4") + '\ndef resume(state):\n    return state["step"]\n'
    (finding,) = found(tmp_path, body)
    assert finding.severity is Severity.INFO


def test_a_function_that_reads_the_counter_and_loads_goes_on(tmp_path: Path) -> None:
    body = """
def resume(session):
    state = torch.load(saved, weights_only=False)
    session.net.load_state_dict(state["net"])
    return state["step"]

second = Session(schedule=SCHEDULE)
second.train(8 - resume(second))
"""
    (finding,) = found(tmp_path, body)
    assert finding.severity is Severity.WARNING


def test_a_script_that_can_restore_and_does_not_is_info(tmp_path: Path) -> None:
    body = NO_OPTIMIZER + '\nif saved is None:\n    second.opt.load_state_dict(state["opt"])\n'
    (finding,) = found(tmp_path, body)
    assert finding.severity is Severity.INFO


def test_an_optimizer_that_is_made_anew_after_it_was_restored_begins_at_0(tmp_path: Path) -> None:
    body = NO_OPTIMIZER.replace(
        REST,
        f'{REST}\nsecond.opt.load_state_dict(state["opt"])\n'
        "second.opt = torch.optim.AdamW(second.net.parameters(), lr=0.01)",
    )
    (finding,) = found(tmp_path, body)
    assert (finding.severity, finding.evidence["lost"]) == (Severity.WARNING, ["opt"])
    assert finding.seen.endswith("what it had been put into was gone by then")


LOOK_ALIKES = {
    "all is restored": (
        NO_SCHEDULER.replace(REST, REST + '\nsecond.sched.load_state_dict(state["sched"])'),
        8,
    ),
    "another rate": (NO_OPTIMIZER.replace("Session(", "Session(rate=0.001, "), 0),
    "another optimizer": (NO_OPTIMIZER.replace("Session(", "Session(make=torch.optim.Adamax, "), 0),
    "another schedule": (NO_SCHEDULER.replace("schedule=SCHEDULE", "schedule=99"), 8),
    "a new head": (
        NO_OPTIMIZER.replace(
            'load_state_dict(state["net"])',
            'load_state_dict({k: v for k, v in state["net"].items() if k[0] != "2"}, strict=False)',
        ),
        0,
    ),
    "evaluation": (NO_OPTIMIZER.replace("second.train(8 - ", "second.net(torch.ones(1, 4)); print("), 0),
    "the best weights come back": (NO_OPTIMIZER.replace("second = Session(schedule=SCHEDULE)", "second = first"), 0),
    "a scheduler sent forward": (
        NO_SCHEDULER.replace(REST, REST + '\nfor _ in range(state["step"]): second.sched.step()'),
        8,
    ),
    "a scheduler made at its position": (
        NO_SCHEDULER.replace(
            REST,
            REST + "\nsecond.sched = torch.optim.lr_scheduler.CosineAnnealingLR(second.opt, 8, last_epoch=3)",
        ),
        8,
    ),
    "no memory": (NO_OPTIMIZER, 0),
    "averaged weights": (
        NO_OPTIMIZER.replace(REST, 'second.net.load_state_dict({k: (v + v) / 2 for k, v in state["net"].items()})'),
        0,
    ),
    "moments put back by hand": (
        NO_OPTIMIZER.replace(
            REST,
            REST + "\nfor a, b in zip(first.net.parameters(), second.net.parameters()):"
            "\n    second.opt.state[b] = {k: v.clone() for k, v in first.opt.state[a].items()}",
        ),
        0,
    ),
}


@pytest.mark.filterwarnings("ignore:Detected call of")
@pytest.mark.parametrize("name", sorted(LOOK_ALIKES))
def test_look_alikes_are_left_alone(tmp_path: Path, name: str) -> None:
    body, schedule = LOOK_ALIKES[name]
    loop = script(tmp_path, body, schedule, "SGD" if name == "no memory" else "AdamW")
    assert find(loop, select=[RULE]) == []
