"""The report as JSON holds it, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loopkit import __version__
from loopkit.errors import UsageError
from loopkit.finding import Finding
from loopkit.manager import Failure
from loopkit.reports.report import SCHEMA, Report, RuleTold


def to_dict(report: Report) -> dict[str, Any]:
    """The report under its contract: field names change only with a note in the README."""
    return {
        "schema": SCHEMA,
        "loopkit": report.version,
        "finished": report.finished,
        "steps": report.steps,
        "processes": report.processes,
        "overhead": round(report.overhead, 5),
        "rows": [{"events": row, "count": count} for row, count in report.rows],
        "not_checked": [{"rule": rule, "why": why} for rule, why in report.not_checked],
        "findings": [_holdable(finding.to_dict()) for finding in report.findings],
        "silenced": [_holdable(finding.to_dict()) | {"reason": reason} for finding, reason in report.silenced],
        "plugin_failures": [
            {"plugin": failure.plugin, "when": failure.when, "error": failure.error} for failure in report.failures
        ],
        "folder": report.folder,
        "root": report.root,
        "script": report.script,
        "seconds": None if report.seconds is None else round(report.seconds, 3),
        "ending": report.ending,
        "stopping": report.stopping,
        "ran_on": report.ran_on,
        "unfinished_row": report.unfinished,
        "exit_code": report.exit_code,
        "fail_on": report.fail_on,
        "rules": [rule.to_dict() for rule in report.rules],
        "lines": [{"file": file, "line": line, "text": text} for (file, line), text in report.lines.items()],
        "slow_plugins": [dict(each) for each in report.slow],
    }


def _holdable(value: Any) -> Any:
    """What JSON can hold: the evidence of a stranger's check may be anything, and is then as Python shows it."""
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else repr(key): _holdable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_holdable(each) for each in value]
    return value if value is None or isinstance(value, str | bool | int | float) else repr(value)


def from_dict(form: Mapping[str, Any]) -> Report:
    """The report that `to_dict` told of; of an older loopkit, without what it did not say.

    Raises:
        KeyError, TypeError, ValueError: it is no such form.
    """
    findings = [Finding.from_dict(each) for each in form["findings"]]
    return Report(
        finished=bool(form["finished"]),
        steps=int(form["steps"]),
        processes=int(form.get("processes", 1)),
        overhead=float(form["overhead"]),
        findings=findings,
        version=str(form["loopkit"]),
        rows=[(str(each["events"]), int(each["count"])) for each in form["rows"]],
        not_checked=[(str(each["rule"]), str(each["why"])) for each in form["not_checked"]],
        silenced=[(Finding.from_dict(each), str(each["reason"])) for each in form["silenced"]],
        failures=[Failure(each["plugin"], each["when"], each["error"]) for each in form["plugin_failures"]],
        folder=str(form.get("folder", "")),
        root=str(form.get("root", "")),
        script=str(form.get("script", "")),
        seconds=form.get("seconds"),
        ending=str(form.get("ending", "complete")),
        stopping=form.get("stopping"),
        ran_on=str(form.get("ran_on", "")),
        unfinished=str(form.get("unfinished_row", "")),
        exit_code=form.get("exit_code"),
        fail_on=str(form.get("fail_on", "error")),
        rules=[
            RuleTold(**{name: each.get(name, "") for name in RuleTold.__slots__}) for each in form.get("rules", [])
        ],
        lines={(each["file"], each["line"]): each["text"] for each in form.get("lines", [])},
        slow=[dict(each) for each in form.get("slow_plugins", [])],
    )


def read(path: Path) -> Report:
    """The report in a file that `loopkit run --format json --output FILE` wrote.

    Raises:
        UsageError: there is none, it is of a newer loopkit, or it is no report.
    """
    try:
        form = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the report {str(path)!r}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{str(path)!r} is no report: it is no JSON ({error}). {_MADE_BY}") from None
    schema = form.get("schema") if isinstance(form, dict) else None
    if not isinstance(form, dict) or not isinstance(schema, int) or "findings" not in form or "steps" not in form:
        raise UsageError(f"{str(path)!r} is no report. {_MADE_BY}")
    if schema > SCHEMA:
        by = form.get("loopkit", "of a later time")
        raise UsageError(
            f"{str(path)!r} is a report of schema {schema}, written by loopkit {by}; this loopkit, {__version__}, "
            f"reads schema {SCHEMA}: upgrade it"
        )
    try:
        return from_dict(form)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{str(path)!r} is no whole report ({error!r}). {_MADE_BY}") from None


_MADE_BY = "`loopkit run --format json --output FILE` writes one"
