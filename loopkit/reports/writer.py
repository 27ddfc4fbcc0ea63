"""`ReportWriter`: what a format of the report is made of: one method that says it as text."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from loopkit.hookspecs import hookimpl
from loopkit.reports.report import Report

if TYPE_CHECKING:
    from loopkit.finding import Finding
    from loopkit.run import Run


class ReportWriter:
    """A format: derive a class from this, say a report as `text`, and name it in the group `loopkit.formats`.

    It is written to a file, atomically, at each finding and at the end, so that a killed run leaves what it had
    found; or to stderr at the end. `loopkit report` writes saved reports with the same method.

    Args:
        path: where to write; None for stderr.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path

    def text(self, report: Report) -> str:
        """The whole report in this format."""
        raise NotImplementedError

    @hookimpl
    def run_started(self, run: Run) -> None:
        """Begin the file."""
        self._write(run, finished=False)

    @hookimpl(trylast=True)
    def finding_reported(self, run: Run, finding: Finding) -> None:
        """Write the new finding down before anything else can happen."""
        self._write(run, finished=False)

    @hookimpl
    def update_finished(self, run: Run) -> None:
        """Bring the counts up to date, ever more rarely."""
        self._write(run, finished=False)

    @hookimpl(trylast=True)
    def run_finished(self, run: Run) -> None:
        """Write the whole report."""
        self._write(run, finished=True)
        if self.path is None:
            print(self.text(Report.of(run, finished=True)), file=sys.stderr, flush=True)

    def _write(self, run: Run, *, finished: bool) -> None:
        if self.path is not None:
            write_whole(self.path, self.text(Report.of(run, finished=finished)))


def write_whole(path: Path, text: str) -> None:
    """Write a file that is either as it was or whole."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")
    os.replace(partial, path)
