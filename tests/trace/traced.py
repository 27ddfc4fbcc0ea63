"""Tracing a loop, in one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import loopkit
from loopkit import Trace, TracedEvent
from loopkit_plugins.sinks.trace import Tracer


def traced(loop: Callable[[], Any]) -> Trace:
    """The trace of a loop."""
    return traced_run(loop)[0]


def traced_run(loop: Callable[[], Any]) -> tuple[Trace, loopkit.Run]:
    """The trace of a loop, and the run it was."""
    tracer = Tracer()
    with loopkit.watch(plugins=[tracer], autoload=False) as run:
        loop()
    assert not run.failures, run.failures
    return tracer.trace(run, "train.py"), run


def row(trace: Trace) -> str:
    """The most frequent row."""
    return str(trace.rows[0])


def event(trace: Trace, word: str) -> TracedEvent:
    """The one event of this kind."""
    (found,) = [each for each in trace.events if each.event == word]
    return found


def masked(text: str) -> str:
    """A picture without what differs from run to run: times, shares, and the numbers of lines."""
    text = re.sub(r" +(\d[\d.]*) (ms|s) +([\d.]+%)[ ▏▎▍▌▋▊▉█]*$", r"  … ms …%", text, flags=re.M)
    text = re.sub(r"^( +between them .*\S) +[\d.]+%[ ▏▎▍▌▋▊▉█]*$", r"\1  …%", text, flags=re.M)
    text = re.sub(r"^(\S+  [\d,]+ updates?) in .*$", r"\1 in …", text, flags=re.M)
    return re.sub(r"(\.py:)(\d+)", lambda found: found[1] + "N" * len(found[2]), text)
