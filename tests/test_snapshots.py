"""The text users read, stored as files: `pytest --snapshots-update` writes them anew."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import loopkit
from loopkit.rulebook import rules
from tests.checks import (
    test_missing_zero_grad,
    test_scheduler_before_optimizer,
    test_step_without_fresh_grad,
    test_zero_grad_before_step,
)
from tests.loops import textbook

SNAPSHOTS = Path(__file__).parent / "snapshots"

LOOPS: dict[str, Callable[[], Any]] = {
    "missing-zero-grad": test_missing_zero_grad.never_clears,
    "scheduler-before-optimizer": test_scheduler_before_optimizer.schedules_first,
    "step-without-fresh-grad": test_step_without_fresh_grad.steps_before_backward,
    "step-without-fresh-grad-reused": test_step_without_fresh_grad.steps_twice,
    "zero-grad-before-step": test_zero_grad_before_step.clears_too_early,
    "zero-grad-before-step-window": test_zero_grad_before_step.wipes_its_window,
    "clean": textbook,
}


def _compare(name: str, text: str, update: bool) -> None:
    path = SNAPSHOTS / f"{name}.txt"
    if update:
        path.write_text(text, encoding="utf-8")
    assert path.exists(), f"no snapshot {path}: run pytest --snapshots-update and read it"
    assert text == path.read_text(encoding="utf-8"), f"{path} differs: read it, then pytest --snapshots-update"


@pytest.mark.filterwarnings("ignore:Detected call of")
@pytest.mark.parametrize("name", sorted(LOOPS))
def test_report(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    with loopkit.watch():
        LOOPS[name]()
    text = re.sub(r"cost  .*", "cost  …", capsys.readouterr().err)
    text = re.sub(r"(\.py:)\d+", r"\1N", text)  # a line added above does not change what is said
    _compare(name, text, pytestconfig.getoption("--snapshots-update"))


@pytest.mark.parametrize("slug", sorted(rules()))
def test_every_rule_has_a_snapshot(slug: str) -> None:
    assert slug in LOOPS


@pytest.mark.parametrize("slug", sorted(rules()))
def test_explain(slug: str, capsys: pytest.CaptureFixture[str], pytestconfig: pytest.Config) -> None:
    from loopkit.cli import main

    assert main(["explain", slug]) == 0
    _compare(f"explain-{slug}", capsys.readouterr().out, pytestconfig.getoption("--snapshots-update"))
