"""Findings as GitHub's workflow commands: annotations at the lines of a pull request."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from loopkit import Finding, Report, ReportWriter, Severity, hookimpl

if TYPE_CHECKING:
    from loopkit import Run

_COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}


class GitHub(ReportWriter):
    """Prints each finding as it is made, so that a killed run has annotations too; or writes them to a file.

    The runner reads commands from stdout and from stderr; stdout is the script's.
    """

    def text(self, report: Report) -> str:
        """All findings, and the plugins that failed."""
        return "\n".join([*(annotation(report, finding) for finding in report.findings), *_failures(report)])

    @hookimpl(trylast=True)
    def finding_reported(self, run: Run, finding: Finding) -> None:
        """Print it, or write the file anew."""
        if self.path is None:
            print(annotation(Report.of(run, finished=False), finding), file=sys.stderr, flush=True)
        else:
            self._write(run, finished=False)

    @hookimpl(trylast=True)
    def run_finished(self, run: Run) -> None:
        """Name the plugins that failed; the findings have been printed."""
        if self.path is not None:
            self._write(run, finished=True)
            return
        for line in _failures(Report.of(run, finished=True)):
            print(line, file=sys.stderr, flush=True)


def _failures(report: Report) -> list[str]:
    return [
        command("warning", f"the plugin {each.plugin} failed ({each.when}): {each.error}", title="loopkit")
        for each in report.failures
    ]


def annotation(report: Report, finding: Finding) -> str:
    """One finding as a command. A file outside the repository has no line that could be annotated."""
    place, step = finding.place, f", step {finding.step}" if finding.step is not None else ""
    message = f"{finding.seen}\nwhy: {finding.why}\ntry: {finding.remedy}"
    properties: dict[str, str] = {}
    if place is not None:
        file = _in_workspace(report, place.file)
        if file is not None:
            properties = {"file": file, "line": str(place.line)}
        else:
            message = f"{place.file}:{place.line}: {message}"
    title = f"{finding.rule} ({finding.confidence}{step})"
    return command(_COMMANDS[finding.severity], message, **properties, title=title)


def _in_workspace(report: Report, file: str) -> str | None:
    """The path as the runner counts it: from its workspace, where the file lies in it; else from the repository."""
    workspace = os.environ.get("GITHUB_WORKSPACE")
    if workspace and Path(file).is_absolute() and Path(file).is_relative_to(workspace):
        return Path(file).relative_to(workspace).as_posix()
    return report.where(file)


def command(name: str, message: str, **properties: str) -> str:
    """A workflow command: `::name key=value,key=value::message`, escaped as the runner reads it."""
    given = ",".join(f"{key}={_escaped(value, ':,')}" for key, value in properties.items())
    return f"::{name} {given}::{_escaped(message)}" if given else f"::{name}::{_escaped(message)}"


def _escaped(text: str, more: str = "") -> str:
    text = text.encode("utf-8", "replace").decode()
    for character in f"%\r\n{more}":
        text = text.replace(character, f"%{ord(character):02X}")
    return text
