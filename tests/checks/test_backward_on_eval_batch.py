"""backward-on-eval-batch: found where it is, silent on what looks like it.

What the script calls its loaders counts, so each loop is a script of its own.
"""

from __future__ import annotations

import linecache
import runpy
from collections.abc import Callable
from pathlib import Path
from types import FunctionType

import pytest
import torch
from torch import nn

from loopkit import Confidence, Finding, Severity
from tests.loops import adamw, loader, loss_of
from tests.watched import find

RULE = "backward-on-eval-batch"

HEAD = """
import copy, itertools, torch
from torch import nn
from tests.loops import adamw, loader, loss_of, model

train_loader, val_loader, other_loader = loader(), loader(), loader()
net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.1), nn.Linear(8, 2))
opt = adamw(net)

def step(x, y, opt=opt, net=net):
    opt.zero_grad()
    loss_of(net(x), y).backward()
    opt.step()

def run(data, train):
    net.train(train)
    for x, y in data:
        with torch.set_grad_enabled(train):
            loss = loss_of(net(x), y)
        if train:
            opt.zero_grad()
            loss.backward()
            opt.step()

def measure(data):
    net.eval()
    with torch.no_grad():
        for x, y in data:
            loss_of(net(x), y)
    net.train()

def score(data, opt=opt):
    net.eval()
    for x, y in data:
        loss = loss_of(net(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
    net.train()
"""
BOTH = """
for epoch in range(3):
    run(train_loader, True)
    score(val_loader)
"""
CALLS = """
for epoch in range(3):
    run(train_loader, True)
    run(val_loader, True)
    run(val_loader, False)
"""


def script(folder: Path, body: str) -> Callable[[], object]:
    """The head and a body as a script that loopkit can read."""
    path = folder / "train.py"
    path.write_text(HEAD + body, encoding="utf-8")
    linecache.checkcache()
    return lambda: runpy.run_path(str(path), run_name="__main__")


def found(folder: Path, body: str) -> list[Finding]:
    return find(script(folder, body), select=[RULE])


def _snapshot() -> None:
    train_loader, val_loader = loader(), loader()
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.1), nn.Linear(8, 2))
    optimizer = adamw(model)
    for _ in range(3):
        model.train()
        for x, y in train_loader:
            optimizer.zero_grad()
            loss_of(model(x), y).backward()
            optimizer.step()
        model.eval()
        total = torch.zeros(())
        for x, y in val_loader:
            loss = loss_of(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()


SNAPSHOTS = {RULE: _snapshot}


def line_in(folder: Path, text: str) -> int:
    lines = (folder / "train.py").read_text(encoding="utf-8").splitlines()
    return [n for n, line in enumerate(lines, 1) if text in line][-1]


def test_a_validation_that_trains_is_an_error(tmp_path: Path) -> None:
    (finding,) = found(tmp_path, BOTH)
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.FACT)
    assert finding.place is not None
    assert finding.place.line == line_in(tmp_path, "loss.backward()")
    assert (finding.evidence["passes"], finding.evidence["eval_mode"]) == (3, True)


def test_one_pass_is_enough_for_name_and_mode(tmp_path: Path) -> None:
    (finding,) = found(tmp_path, BOTH.replace("range(3)", "range(1)"))
    assert finding.severity is Severity.ERROR


def test_the_mode_alone_tells_where_it_changes_with_each_pass(tmp_path: Path) -> None:
    (finding,) = found(tmp_path, BOTH.replace("val_loader", "other_loader"))
    assert finding.severity is Severity.WARNING


def test_a_helper_that_is_told_to_train_is_named_by_its_call(tmp_path: Path) -> None:
    (finding,) = found(tmp_path, CALLS)
    assert finding.severity is Severity.WARNING
    assert finding.place is not None
    assert finding.place.line == line_in(tmp_path, "run(val_loader, True)")
    assert "it is evaluated too" in finding.seen


def test_loops_over_phases_are_found_by_their_mode(tmp_path: Path) -> None:
    body = """
loaders = {"train": train_loader, "val": val_loader}
for epoch in range(3):
    for phase in ("train", "val"):
        net.train(phase == "train")
        for x, y in loaders[phase]:
            step(x, y)
"""
    (finding,) = found(tmp_path, body)
    assert finding.severity is Severity.WARNING


INFOS = {
    "a name": BOTH.replace("score(val_loader)", "run(val_loader, True)"),
    "a last training on all data": BOTH.replace("    score(val_loader)", "    measure(val_loader)")
    + "run(train_loader, True)\nrun(val_loader, True)",
    "a function's name": BOTH.replace("score(val_loader)", "validate(other_loader)").replace(
        "for epoch", "def validate(data):\n    for x, y in data:\n        step(x, y)\nfor epoch"
    ),
}


@pytest.mark.parametrize("name", sorted(INFOS))
def test_a_name_alone_is_a_fact(tmp_path: Path, name: str) -> None:
    (finding,) = found(tmp_path, INFOS[name])
    assert finding.severity is Severity.INFO


LOOK_ALIKES = {
    "an evaluation": BOTH.replace("score(", "measure("),
    "training data that is evaluated": CALLS.replace("run(val_loader, True)", "run(train_loader, False)"),
    "gradients without steps": BOTH.replace(
        "score(val_loader)", "[loss_of(net.eval()(x), y).backward() for x, y in val_loader]"
    ),
    "side by side": """
for epoch in range(3):
    for (x, y), (x2, y2) in zip(train_loader, val_loader):
        step(x, y)
        step(x2, y2)
""",
    "one inside the other": """
for epoch in range(3):
    more = itertools.cycle(val_loader)
    for x, y in itertools.chain(train_loader, train_loader):
        step(x, y)
        step(*next(more))
""",
    "a bi-level search": """
outer = torch.optim.SGD(net.parameters(), 0.01)
for epoch in range(3):
    for (x, y), (x2, y2) in zip(train_loader, val_loader):
        step(x2, y2, outer)
        step(x, y)
    measure(val_loader)
""",
    "calibration": BOTH.replace("score(val_loader)", "measure(val_loader)")
    + "score(val_loader, torch.optim.SGD(net.parameters(), 0.01))",
    "test-time training": BOTH.replace(
        "score(val_loader)",
        """
    net.eval()
    for x, y in val_loader:
        step(x, y)
        with torch.no_grad():
            net(x)
    net.train()
""",
    ),
    "query sets": """
for task in range(3):
    fast = copy.deepcopy(net)
    inner = torch.optim.SGD(fast.parameters(), 0.01)
    for x, y in train_loader:
        step(x, y, inner, fast)
    for x, y in val_loader:
        step(x, y)
""",
    "pseudo-labels": """
for epoch in range(3):
    run(train_loader, True)
    run(other_loader, False)
    run(other_loader, True)
    measure(val_loader)
""",
    "two domains": """
for epoch in range(3):
    for data in (train_loader, other_loader):
        run(data, True)
    measure(val_loader)
""",
    "both in one row": """
for epoch in range(3):
    for data in (train_loader, val_loader):
        run(data, True)
""",
    "a second stage with frozen statistics": """
run(train_loader, True)
run(train_loader, True)
score(other_loader)
score(other_loader)
""",
    "folds": """
for fold in range(3):
    net = nn.Linear(4, 2)
    opt = adamw(net)
    for x, y in (train_loader, val_loader, other_loader)[fold]:
        step(x, y, opt, net)
    measure((val_loader, other_loader, train_loader)[fold])
""",
    "an evaluation before the batch that was fetched is used": """
for epoch in range(3):
    for x, y in train_loader:
        measure(val_loader)
        step(x, y)
""",
    "all loaders are for tests": BOTH.replace("train_loader", "test_loader")
    .replace("for epoch", "test_loader = train_loader\nfor epoch")
    .replace("score", "run")
    .replace("(val_loader)", "(val_loader, True)"),
}


@pytest.mark.parametrize("name", sorted(LOOK_ALIKES))
def test_look_alikes_are_left_alone(tmp_path: Path, name: str) -> None:
    assert found(tmp_path, LOOK_ALIKES[name]) == []


def test_a_run_without_a_source_to_read_is_judged_by_modes(tmp_path: Path) -> None:
    code = compile(HEAD + BOTH, str(tmp_path / "train.py"), "exec")
    (finding,) = find(FunctionType(code, {"__name__": "made"}), select=[RULE])
    assert finding.severity is Severity.WARNING
