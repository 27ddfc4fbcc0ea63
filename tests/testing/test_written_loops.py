"""Loops that are written out: right ones are silent, each fault is found at its line, by all that is installed."""

from __future__ import annotations

from hypothesis import given, settings

from loopkit.testing import WrittenLoop, assert_finds, assert_silent, strategies


@settings(max_examples=40)
@given(strategies.loops())
def test_right_loops_are_silent(loop: WrittenLoop) -> None:
    assert_silent(loop)


@settings(max_examples=50)
@given(strategies.faults().flatmap(strategies.loops))
def test_each_fault_is_found_at_its_line(loop: WrittenLoop) -> None:
    assert_finds(loop, loop.fault, line_of=loop.line)
