"""The small loop with a bug that each rule's own test keeps."""

from __future__ import annotations

import importlib

import pytest

import loopkit
from loopkit.rulebook import rules


def assert_fires(rule: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The rule speaks on the loops that are planted for it."""
    module = importlib.import_module(f"tests.checks.test_{rule.replace('-', '_')}")
    loops = [loop for name, loop in module.SNAPSHOTS.items() if name == rule or name.startswith(f"{rule}-")]
    assert loops, f"no loop is planted for {rule}"
    with loopkit.watch(skip=["console"], probe=rules()[rule].asked_for) as run:
        loops[0]()
    capsys.readouterr()
    assert rule in [finding.rule for finding in run.findings]
