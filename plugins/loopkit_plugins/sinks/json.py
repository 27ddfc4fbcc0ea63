"""The report as one JSON object, always whole on disk, so that a killed run keeps what it had found."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import loopkit
from loopkit import hookimpl

if TYPE_CHECKING:
    from loopkit import Run


class Json:
    """Writes the report to a file, atomically, at each finding and at the end; or to stderr at the end.

    Args:
        path: where to write; None for stderr.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path

    @hookimpl
    def run_started(self, run: Run) -> None:
        """Begin the file."""
        self._write(run, finished=False)

    @hookimpl(trylast=True)
    def finding_reported(self, run: Run) -> None:
        """Write the new finding down before anything else can happen."""
        self._write(run, finished=False)

    @hookimpl
    def update_finished(self, run: Run) -> None:
        """Bring the counts up to date, ever more rarely."""
        self._write(run, finished=False)

    @hookimpl
    def run_finished(self, run: Run) -> None:
        """Write the whole report."""
        self._write(run, finished=True)
        if self._path is None:
            print(json.dumps(report(run, finished=True), indent=1), file=sys.stderr, flush=True)

    def _write(self, run: Run, *, finished: bool) -> None:
        if self._path is None:
            return
        partial = self._path.with_name(f".{self._path.name}.{os.getpid()}.partial")
        partial.write_text(json.dumps(report(run, finished=finished), indent=1) + "\n", encoding="utf-8")
        os.replace(partial, self._path)


def report(run: Run, *, finished: bool) -> dict[str, Any]:
    """The report under its contract: field names change only with a note in the README."""
    return {
        "schema": 1,
        "loopkit": loopkit.__version__,
        "finished": finished,
        "steps": sum(run.steps_by_process()),
        "processes": max(1, len(run.steps_by_process())),
        "overhead": round(run.overhead(), 5),
        "rows": [{"events": row, "count": count} for row, count in run.rows()],
        "not_checked": [{"rule": rule, "why": why} for rule, why in run.not_checked()] if finished else [],
        "findings": [finding.to_dict() for finding in run.findings],
        "silenced": [finding.to_dict() | {"reason": reason} for finding, reason in run.silenced],
        "plugin_failures": [
            {"plugin": failure.plugin, "when": failure.when, "error": failure.error} for failure in run.failures
        ],
    }
