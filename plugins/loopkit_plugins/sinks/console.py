"""Findings as text: each as it is made, and a summary when the run ends."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from loopkit import Finding, Report, Severity, hookimpl

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
        self._say("\n".join(summary(Report.of(run, finished=True))))

    def text(self, report: Report) -> str:
        """A saved report as it would have been printed."""
        return "\n".join([*(told(finding, report.folder) for finding in report.findings), *summary(report)])

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
    where = _where(finding, folder)
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


def summary(report: Report) -> list[str]:
    """The lines that end a report."""
    counts = Counter(finding.severity for finding in report.findings)
    found = ", ".join(_counted(counts[each], str(each)) for each in reversed(Severity) if counts[each])
    watched = f"{_counted(report.steps, 'optimizer step')} watched"
    watched += f" in {report.processes} processes" * (report.processes > 1)
    lines = ["", f"loopkit  {watched}: {found or 'nothing found'}"]
    if not report.finished:
        lines.append("  unfinished   the run was killed, or it goes on: this is what it had found")
    for finding in report.findings:
        times = f"  in {_counted(finding.count, 'update')}" if finding.count > 1 else ""
        explains = finding.evidence.get("explains")
        more = f"  (explains {', '.join(explains)})" if explains else ""
        where = _where(finding, report.folder)
        lines.append(f"  {finding.severity!s:<8} {where}  {finding.rule}{times}{_whose(finding)}{more}")
    lines += _loop(report)
    if report.stopping is not None:
        lines.append(f"  stopped      {report.stopping}" if not report.ran_on else f"  ran on       {report.ran_on}")
    for rule, why in report.not_checked:
        lines.append(f"  not checked  {'' if rule == '*' else rule + ': '}{why}")
    for finding, reason in report.silenced:
        lines.append(f"  silenced     {_where(finding, report.folder)}  {finding.rule}  ({reason})")
    for failure in report.failures:
        lines.append(f"  plugin       {failure.plugin} failed ({failure.when}): {failure.error}")
    for slow in report.slow:
        lines.append(
            f"  slow         {slow['plugin']} took {slow['seconds']:.1f} s: {slow['of_run']:.0%} of the run, "
            f"{slow['of_overhead']:.0%} of what loopkit cost"
        )
    length = "" if report.seconds is None else f" of {report.seconds:.1f} s"
    lines.append(f"  cost         {report.overhead:.1%}{length}")
    return lines


def _where(finding: Finding, folder: str) -> str:
    return f"{relative(finding.place.file, folder)}:{finding.place.line}" if finding.place else "(no line)"


def _loop(report: Report) -> list[str]:
    rows = report.rows
    if not rows:
        return [f"  loop         {report.unfinished}, never stepped"] if report.unfinished else []
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
    if file.startswith("<") or not folder:
        return file
    path = os.path.relpath(file, folder)
    return file if path.startswith(os.pardir) else path


def _coloured(stream: TextIO) -> bool:
    return not os.environ.get("NO_COLOR") and hasattr(stream, "isatty") and stream.isatty()
