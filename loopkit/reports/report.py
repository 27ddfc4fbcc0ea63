"""`Report`: what a run says, as plain values that survive JSON. Every format is made of one."""

from __future__ import annotations

import inspect
import linecache
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import loopkit
from loopkit.finding import Confidence, Finding, Severity
from loopkit.manager import Failure
from loopkit.rulebook import rules

if TYPE_CHECKING:
    from loopkit.run import Run

SCHEMA = 1
"""Of the JSON report. Fields may be added under one number, and are never taken away or given another meaning."""


@dataclass(frozen=True, slots=True)
class RuleTold:
    """A rule that was looked for.

    Args:
        rule: its slug.
        severity, confidence: of its findings; "" where the check does not say.
        summary: what it finds, in one line.
        page: the whole of its page, for a check that no installed package brings; else "".
    """

    rule: str
    severity: str = ""
    confidence: str = ""
    summary: str = ""
    page: str = ""

    def to_dict(self) -> dict[str, str]:
        """As plain values."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Report:
    """What a run says at some moment; at its end if `finished`.

    Args:
        finished: the run came to its end; False while it goes on, or if it was killed.
        steps: optimizer steps of all processes.
        processes: how many processes executed steps.
        overhead: the share of the run that was spent in loopkit.
        findings: the gravest and surest first.
        version: of loopkit.
        rows: the rows of events updates consisted of, with counts.
        not_checked: rule ("*" for all) and why.
        silenced: findings that are not shown, with the reason.
        failures: plugins that failed.
        folder: the working directory; "" where it is not known.
        root: the repository the folder is in, or the folder.
        script: the main program's file; "" where there is none.
        seconds: how long the run was watched; None where it is not known.
        ending: "complete", "stopped" or "failed".
        stopping: why a plugin asked for the end.
        ran_on: why the loop ran on all the same.
        unfinished: the events since the last step.
        exit_code: of `loopkit run`; None where somebody else ends the process.
        fail_on: what makes the exit code 1.
        rules: what was looked for and would be shown.
        lines: the text of lines that findings name, by file and number.
        slow: plugins that took long: name, seconds, share of the run, share of loopkit's cost.
    """

    finished: bool
    steps: int
    processes: int
    overhead: float
    findings: list[Finding]
    version: str = loopkit.__version__
    rows: list[tuple[str, int]] = field(default_factory=list)
    not_checked: list[tuple[str, str]] = field(default_factory=list)
    silenced: list[tuple[Finding, str]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    folder: str = ""
    root: str = ""
    script: str = ""
    seconds: float | None = None
    ending: str = "complete"
    stopping: str | None = None
    ran_on: str = ""
    unfinished: str = ""
    exit_code: int | None = None
    fail_on: str = "error"
    rules: list[RuleTold] = field(default_factory=list)
    lines: Mapping[tuple[str, int], str] = field(default_factory=dict)
    slow: list[Mapping[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, run: Run, *, finished: bool) -> Report:
        """What a run says now."""
        steps, findings = run.steps_by_process(), run.findings
        return cls(
            finished=finished,
            steps=sum(steps),
            processes=max(1, len(steps)),
            overhead=run.overhead(),
            findings=findings,
            rows=run.rows(),
            not_checked=run.not_checked() if finished else [],
            silenced=list(run.silenced),
            failures=list(run.failures),
            folder=run.folder,
            root=root_of(run.folder),
            script=_script(),
            seconds=run.seconds(),
            ending=run.ending,
            stopping=run.stopping,
            ran_on=run.ran_on,
            unfinished=run.unfinished_row(),
            exit_code=run.exit_code() if finished else None,
            fail_on=run.fail_on,
            rules=_looked_for(run),
            lines=_lines(findings),
            slow=[each.to_dict() for each in run.slow_plugins()] if finished else [],
        )

    def to_dict(self) -> dict[str, Any]:
        """As the JSON report has it."""
        from loopkit.reports.saved import to_dict

        return to_dict(self)

    def fails(self, finding: Finding) -> bool:
        """Whether this finding is one that makes the exit code 1."""
        return self.fail_on != "never" and finding.severity.at_least(Severity(self.fail_on))

    def rule(self, slug: str) -> RuleTold:
        """What is known of a rule: from its page where it is installed, else from the run or from its findings."""
        told = next((each for each in self.rules if each.rule == slug), None)
        if slug in (known := rules()):
            rule = known[slug]
            return RuleTold(slug, rule.severity, rule.confidence, rule.summary, rule.page)
        if told is not None:
            return told
        shown = next((each for each in self.findings if each.rule == slug), None)
        return RuleTold(slug, str(shown.severity), str(shown.confidence), shown.why) if shown else RuleTold(slug)

    def where(self, file: str) -> str | None:
        """The path of a file inside the repository, with slashes; None for one that lies elsewhere, or is none."""
        if not self.root or file.startswith("<") or not os.path.isabs(file):
            return None
        for root, path in ((self.root, file), (os.path.realpath(self.root), os.path.realpath(file))):
            try:
                relative = os.path.relpath(path, root)
            except ValueError:  # another drive
                continue
            if relative != os.pardir and not relative.startswith(os.pardir + os.sep):
                return relative.replace(os.sep, "/")
        return None


def root_of(folder: str) -> str:
    """The repository that a folder is in; the folder itself where it is in none."""
    at = folder
    while not os.path.exists(os.path.join(at, ".git")):
        above = os.path.dirname(at)
        if above == at:
            return folder
        at = above
    return at


def _script() -> str:
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return os.path.abspath(file) if isinstance(file, str) else ""


def _looked_for(run: Run) -> list[RuleTold]:
    installed, told = rules(), {}
    for check in run.manager.checks():
        slug = str(getattr(check, "rule", ""))
        if any(each.reason(slug) for each in run.filters):
            continue
        page = inspect.cleandoc(type(check).__doc__ or "")
        told[slug] = RuleTold(
            slug,
            _word(getattr(check, "severity", ""), Severity),
            _word(getattr(check, "confidence", ""), Confidence),
            page.partition("\n")[0],
            "" if slug in installed else page,
        )
    return [told[slug] for slug in sorted(told)]


def _word(value: object, kind: type[Severity] | type[Confidence]) -> str:
    return str(value) if isinstance(value, kind) else ""


def _lines(findings: Iterable[Finding]) -> dict[tuple[str, int], str]:
    """What the lines say now: by the time that a report is converted, the files may say something else."""
    places = [finding.place for finding in findings if finding.place is not None]
    read = {(place.file, place.line): linecache.getline(place.file, place.line).strip() for place in places}
    return {key: text for key, text in read.items() if text}
