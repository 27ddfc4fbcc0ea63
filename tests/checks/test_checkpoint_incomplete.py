"""checkpoint-incomplete: found where it is, silent on what looks like it.

What the script's code looks up in a checkpoint counts, so each loop is a script of its own.
"""

from __future__ import annotations

import functools
import io
import linecache
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from loopkit import Confidence, Finding, Severity
from tests.loops import adamw, batches, loss_of, model
from tests.watched import find

RULE = "checkpoint-incomplete"

HEAD = """
import io, json, torch
from torch import nn
from tests.loops import batches, loss_of, model

SCALED = False

class Session:
    def __init__(self, make=torch.optim.AdamW, schedule=8):
        self.net = model()
        self.opt = make(self.net.parameters(), lr=0.01)
        self.sched = torch.optim.lr_scheduler.CosineAnnealingLR(self.opt, T_max=schedule) if schedule else None
        self.scaler = torch.amp.GradScaler("cpu", init_scale=4.0, enabled=SCALED)

    def train(self, steps=4):
        for x, y in batches(steps):
            self.opt.zero_grad()
            self.scaler.scale(loss_of(self.net(x), y)).backward()
            self.scaler.step(self.opt)
            self.scaler.update()
            if self.sched:
                self.sched.step()

def write(*parts, **state):
    file = io.BytesIO()
    torch.save(*parts or (state,), file)
    file.seek(0)
    return file
"""
SAVED = """
one = Session()
one.train()
saved = write(net=one.net.state_dict(), opt=one.opt.state_dict(), epoch=1)
"""
RESUMED = """
two = Session()
state = torch.load(saved)
two.net.load_state_dict(state["net"])
two.opt.load_state_dict(state["opt"])
two.train()
"""
WEIGHTS = """
one = Session(schedule=0)
one.train()
saved = write(net=one.net.state_dict(), epoch=1)
two = Session(schedule=0)
state = torch.load(saved)
two.net.load_state_dict(state["net"])
for epoch in range(state["epoch"], 2):
    two.train()
"""
NO_SCALER = """
SCALED = True
one = Session(schedule=0)
one.train()
write(net=one.net.state_dict(), opt=one.opt.state_dict())
"""


def script(folder: Path, body: str) -> Callable[[], object]:
    """The head and a body as a script that loopkit can read."""
    path = folder / "train.py"
    path.write_text(HEAD + body, encoding="utf-8")
    linecache.checkcache()
    return lambda: runpy.run_path(str(path), run_name="__main__")


def found(folder: Path, body: str) -> list[Finding]:
    return find(script(folder, body), select=[RULE])


def _train(net: nn.Module, optimizer: Optimizer, scheduler: LRScheduler | None = None) -> None:
    for x, y in batches(4):
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def _no_schedule(*, resumed: bool = True) -> None:
    file = io.BytesIO()
    for goes_on in (False, True)[: 1 + resumed]:
        net = model()
        optimizer = adamw(net)
        scheduler = CosineAnnealingLR(optimizer, T_max=8)
        if goes_on:
            checkpoint = torch.load(file)
            net.load_state_dict(checkpoint["model"])
            optimizer.load_state_dict(checkpoint["optimizer"])
        _train(net, optimizer, scheduler)
        if not goes_on:
            torch.save({"model": net.state_dict(), "optimizer": optimizer.state_dict()}, file)
            file.seek(0)


def _no_optimizer() -> None:
    file = io.BytesIO()
    net = model()
    optimizer = adamw(net)
    _train(net, optimizer)
    torch.save({"model": net.state_dict(), "epoch": 1}, file)
    file.seek(0)
    net = model()
    optimizer = adamw(net)
    checkpoint = torch.load(file)
    net.load_state_dict(checkpoint["model"])
    for _ in range(checkpoint["epoch"], 2):
        _train(net, optimizer)


SNAPSHOTS = {
    RULE: functools.partial(_no_schedule, resumed=False),
    f"{RULE}-resumed": _no_schedule,
    f"{RULE}-weights": _no_optimizer,
}


def test_a_checkpoint_without_the_schedule_is_a_fact(tmp_path: Path) -> None:
    (finding,) = found(tmp_path, SAVED)
    assert (finding.severity, finding.confidence) == (Severity.INFO, Confidence.FACT)
    assert finding.evidence["lacks"] == "scheduler"
    assert finding.place is not None
    assert finding.place.line == 1 + HEAD[: HEAD.index("torch.save")].count("\n")


def test_a_checkpoint_without_the_scaler_is_a_fact(tmp_path: Path) -> None:
    (finding,) = found(tmp_path, NO_SCALER)
    assert (finding.severity, finding.evidence["lacks"]) == (Severity.INFO, "scaler")


def test_going_on_from_it_is_a_warning(tmp_path: Path) -> None:
    (finding,) = found(tmp_path, SAVED + RESUMED)
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.PROOF)
    assert finding.evidence["lacks"] == "scheduler"


def test_moments_that_were_never_saved_are_a_warning(tmp_path: Path) -> None:
    (finding,) = found(tmp_path, WEIGHTS)
    assert (finding.severity, finding.evidence["lacks"]) == (Severity.WARNING, "optimizer")


@pytest.mark.parametrize(("body", "lacks"), [(SAVED + RESUMED, "scheduler"), (WEIGHTS, "optimizer")])
def test_a_file_of_another_run_is_a_fact_at_most(tmp_path: Path, body: str, lacks: str) -> None:
    before, _, after = body.partition("two =")
    kept = tmp_path / "last.pt"
    script(tmp_path, before + f"\nopen({str(kept)!r}, 'wb').write(saved.getvalue())")()
    after = f"two ={after}".replace("torch.load(saved)", f"torch.load({str(kept)!r})")
    after = after.replace("two.train()", "two.train(state['epoch'] * 4)")
    (finding,) = found(tmp_path, after)
    assert (finding.severity, finding.evidence["lacks"]) == (Severity.INFO, lacks)


SCHED = "sched=one.sched.state_dict(), epoch=1"
LOOK_ALIKES = {
    "all is saved": SAVED.replace("epoch=1", SCHED) + RESUMED + 'two.sched.load_state_dict(state["sched"])',
    "all is saved, with a scaler": NO_SCALER.replace("opt=", "scaler=one.scaler.state_dict(), opt="),
    "a scaler that is off": NO_SCALER.replace("SCALED = True", ""),
    "weights alone": SAVED.replace("opt=one.opt.state_dict(), ", ""),
    "weights alone, plainly": SAVED.replace("write(net=", "write(").replace(
        ", opt=one.opt.state_dict(), epoch=1", ""
    ),
    "the best weights beside the whole": SAVED
    + f"write(net=one.net.state_dict(), opt=one.opt.state_dict(), {SCHED})",
    "a file for each state": SAVED + "write(one.sched.state_dict())",
    "a list of schedulers": SAVED.replace("epoch=1", "lr_schedulers=[one.sched.state_dict()]"),
    "the scheduler itself": SAVED.replace("epoch=1", "sched=one.sched"),
    "a state in another format": SAVED + "json.dumps(one.sched.state_dict(), default=str)",
    "a position that is made anew": SAVED + "print(one.sched.last_epoch)",
    "no schedule": SAVED.replace("Session()", "Session(schedule=0)"),
    "a rate that has not moved": SAVED.replace(
        "one.train()", "one.sched = torch.optim.lr_scheduler.StepLR(one.opt, 99)\none.train()"
    ),
    "a schedule that is told the epoch": SAVED.replace(
        "one.train()", "sched, one.sched = one.sched, None\none.train()\nsched.step(3)"
    ),
    "before training": SAVED.replace("one.train()\n", ""),
    "weights that are fine-tuned": WEIGHTS.replace('state["epoch"]', "1"),
    "a counter that is shown": WEIGHTS.replace('state["epoch"]', "1") + 'print(state["epoch"])',
    "another optimizer for the weights": WEIGHTS.replace("two = Session(", "two = Session(torch.optim.Adamax, "),
    "an optimizer without memory": WEIGHTS.replace("Session(", "Session(torch.optim.SGD, "),
    "the best weights come back": WEIGHTS.replace("two = Session(schedule=0)", "two = one"),
    "the optimizer in another file": WEIGHTS.replace("two =", "write(one.opt.state_dict())\ntwo ="),
    "evaluation": WEIGHTS.replace("two.train()", "two.net(torch.ones(1, 4))"),
    "tensors of data": "torch.save({str(i): torch.ones(3) for i in range(3)}, io.BytesIO())"
    + SAVED[: SAVED.index("saved")],
}


@pytest.mark.filterwarnings("ignore:Detected call of")
@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.filterwarnings("ignore:To get the last learning rate")
@pytest.mark.parametrize("name", sorted(LOOK_ALIKES))
def test_look_alikes_are_left_alone(tmp_path: Path, name: str) -> None:
    assert found(tmp_path, LOOK_ALIKES[name]) == []


WARNED = {
    "another schedule": (SAVED + RESUMED.replace("Session()", "Session(schedule=99)")),
    "a schedule sent forward": SAVED
    + RESUMED.replace("two.train()", 'for _ in range(4 * state["epoch"]):\n    two.sched.step()\ntwo.train()'),
    "not gone on from": SAVED + RESUMED.replace("two.train()", ""),
}


@pytest.mark.filterwarnings("ignore:Detected call of")
@pytest.mark.parametrize("name", sorted(WARNED))
def test_a_resume_that_is_no_harm_leaves_the_fact(tmp_path: Path, name: str) -> None:
    (finding,) = found(tmp_path, WARNED[name])
    assert finding.severity is Severity.INFO
