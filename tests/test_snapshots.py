"""The text users read, stored as files: `pytest --snapshots-update` writes them anew."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import loopkit
from loopkit.rulebook import rules
from tests.loops import textbook

SNAPSHOTS = Path(__file__).parent / "snapshots"


def _loops() -> dict[str, Callable[[], Any]]:
    """`SNAPSHOTS` of each check's test: the loops whose reports are stored, by the name of the file."""
    found: dict[str, Callable[[], Any]] = {"clean": textbook}
    for path in sorted((Path(__file__).parent / "checks").glob("test_*.py")):
        found |= getattr(importlib.import_module(f"tests.checks.{path.stem}"), "SNAPSHOTS", {})
    return found


LOOPS = _loops()
PROBES = {slug for slug, rule in rules().items() if rule.confidence == "probe"}


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
    with loopkit.watch(probe=name in PROBES):
        LOOPS[name]()
    text = re.sub(r"cost  .*", "cost  …", capsys.readouterr().err)
    text = re.sub(r"^  slow  .*\n", "", text, flags=re.M)  # on a machine that is
    text = re.sub(r"^\[transformers\].*\n", "", text, flags=re.M)  # said once a process
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
