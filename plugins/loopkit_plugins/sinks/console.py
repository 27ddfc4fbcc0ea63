"""Findings as text: each as it is made, and a summary when the run ends."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from loopkit import Finding, Severity, hookimpl

if TYPE_CHECKING:
    from loopkit import Run

_COLOURS = {Severity.ERROR: "31;1", Severity.WARNING: "33;1", Severity.INFO: "36"}
_ROWS = 4


class Console:
    """Prints findings to stderr as they are made, and to a file in full when the run ends.

    Args:
        path: also write the text there; None for stderr alone.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lines: list[str] = []

    @hookimpl
    def run_started(self) -> None:
        """Begin the file, so that a killed run leaves what it had."""
        self._save()

    @hookimpl
    def finding_reported(self, run: Run, finding: Finding) -> None:
        """Print one finding."""
        self._say(told(finding, run.folder), finding.severity)

    @hookimpl
    def run_finished(self, run: Run) -> None:
        """Print what the loop consists of, what was found, what could not be checked, and what it cost."""
        self._say("\n".join(summary(run)))

    def _say(self, text: str, severity: Severity | None = None) -> None:
        self._lines.append(text)
        self._save()
        stream = sys.stderr
        if severity is not None and _coloured(stream):
            head, _, rest = text.partition("\n")
            text = f"\x1b[{_COLOURS[severity]}m{head}\x1b[0m\n{rest}"
        print(text, file=stream, flush=True)

    def _save(self) -> None:
        if self._path is not None:
            self._path.write_text("\n".join([*self._lines, ""]), encoding="utf-8")


def told(finding: Finding, folder: str) -> str:
    """One finding as five lines: place and rule, seen, why, try, quiet."""
    where = f"{relative(finding.place.file, folder)}:{finding.place.line}" if finding.place else "(no line)"
    step = f", step {finding.step}" if finding.step is not None else ""
    return "\n".join(
        [
            f"{where}  {finding.severity}  {finding.rule}  ({finding.confidence}{step}{_whose(finding)})",
            f"  seen   {finding.seen}",
            f"  why    {finding.why}",
            f"  try    {finding.remedy}",
            f"  quiet  # loopkit: ignore[{finding.rule}]   or   loopkit run --ignore {finding.rule}",
        ]
    )


def _whose(finding: Finding) -> str:
    """Which process showed it, where that is not the only one there is."""
    ranks, names = finding.evidence.get("ranks", []), finding.evidence.get("processes", [])
    if len(ranks) > 1:
        return f", ranks {', '.join(map(str, ranks))}"
    if finding.rank is not None:
        return f", rank {finding.rank}"
    if not names:
        return ""
    return f", in {names[0]}" if len(names) == 1 else f", in {len(names)} processes"


def summary(run: Run) -> list[str]:
    """The lines that end a report."""
    findings = run.findings
    counts = Counter(finding.severity for finding in findings)
    found = ", ".join(_counted(counts[each], str(each)) for each in reversed(Severity) if counts[each])
    steps = run.steps_by_process()
    watched = f"{_counted(sum(steps), 'optimizer step')} watched" + (f" in {len(steps)} processes" * (len(steps) > 1))
    lines = ["", f"loopkit  {watched}: {found or 'nothing found'}"]
    for finding in findings:
        place = f"{relative(finding.place.file, run.folder)}:{finding.place.line}" if finding.place else "(no line)"
        times = f"  in {_counted(finding.count, 'update')}" if finding.count > 1 else ""
        explains = finding.evidence.get("explains")
        more = f"  (explains {', '.join(explains)})" if explains else ""
        lines.append(f"  {finding.severity!s:<8} {place}  {finding.rule}{times}{_whose(finding)}{more}")
    lines += _loop(run)
    if run.stopping is not None:
        lines.append(f"  stopped      {run.stopping}" if not run.ran_on else f"  ran on       {run.ran_on}")
    for rule, why in run.not_checked():
        lines.append(f"  not checked  {'' if rule == '*' else rule + ': '}{why}")
    for finding, reason in run.silenced:
        place = f"{relative(finding.place.file, run.folder)}:{finding.place.line}" if finding.place else "(no line)"
        lines.append(f"  silenced     {place}  {finding.rule}  ({reason})")
    for failure in run.failures:
        lines.append(f"  plugin       {failure.plugin} failed ({failure.when}): {failure.error}")
    lines.append(f"  cost         {run.overhead():.1%} of {run.seconds():.1f} s")
    return lines


def _loop(run: Run) -> list[str]:
    rows = run.rows()
    if not rows:
        unfinished = run.unfinished_row()
        return [f"  loop         {unfinished}, never stepped"] if unfinished else []
    lines = [
        f"  {'loop' if n == 0 else '':<12} {row}  ({_counted(count, 'time')})"
        for n, (row, count) in enumerate(rows[:_ROWS])
    ]
    if len(rows) > _ROWS:
        rest = sum(count for _, count in rows[_ROWS:])
        lines.append(f"  {'':<12} … and {_counted(len(rows) - _ROWS, 'other row')} ({_counted(rest, 'time')})")
    return lines


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def relative(file: str, folder: str) -> str:
    """A path as one would type it from `folder`; absolute when it lies elsewhere."""
    if file.startswith("<"):
        return file
    path = os.path.relpath(file, folder)
    return file if path.startswith(os.pardir) else path


def _coloured(stream: TextIO) -> bool:
    return not os.environ.get("NO_COLOR") and hasattr(stream, "isatty") and stream.isatty()
