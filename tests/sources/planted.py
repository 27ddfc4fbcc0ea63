"""The small loop with a bug that each rule's own test keeps."""

from __future__ import annotations

import importlib

import pytest

import loopkit
from loopkit.rulebook import rules


def assert_fires(rule: str, capsys: pytest.CaptureFixture[str], planted: str = "") -> None:
    """The rule speaks on the first loop that is planted for it, or the one of that name."""
    module = importlib.import_module(f"tests.checks.test_{rule.replace('-', '_')}")
    loops = [loop for name, loop in module.SNAPSHOTS.items() if name == rule or name.startswith(f"{rule}-")]
    loops = [module.SNAPSHOTS[planted]] if planted else loops
    assert loops, f"no loop is planted for {rule}"
    with loopkit.watch(skip=["console"], probe=rules()[rule].asked_for) as run:
        loops[0]()
    capsys.readouterr()
    assert rule in [finding.rule for finding in run.findings]
