"""The report as SARIF 2.1.0, which code hosts and editors read.

What is silenced is no result: code hosts show suppressed results as open ones.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loopkit import Confidence, Finding, Place, Report, ReportWriter, RuleTold, Severity

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_BASE = "SRCROOT"
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}
_KINDS = {"error": "error", "warning": "warning", "info": "recommendation"}
_PRECISION = {
    Confidence.PROOF: "very-high",
    Confidence.FACT: "high",
    Confidence.PROBE: "high",
    Confidence.HEURISTIC: "medium",
}
_FINGERPRINT = "loopkitIdentity/v1"


class Sarif(ReportWriter):
    """Writes the report as SARIF."""

    def text(self, report: Report) -> str:
        """The report as one SARIF log of one run."""
        log = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [_run(report)]}
        return json.dumps(_plain(log), indent=1, allow_nan=False, ensure_ascii=False)


def _run(report: Report) -> dict[str, Any]:
    slugs = sorted({finding.rule for finding in report.findings})
    run: dict[str, Any] = {
        "tool": {
            "driver": {
                "name": "loopkit",
                "fullName": "loopkit, a debugger for PyTorch training loops",
                "version": report.version,
                "semanticVersion": report.version,
                "rules": [_rule(report.rule(slug)) for slug in slugs],
            }
        },
        "invocations": [_invocation(report)],
        "results": _results(report, slugs),
        "columnKind": "unicodeCodePoints",
        "properties": {
            "steps": report.steps,
            "processes": report.processes,
            "overhead": round(report.overhead, 5),
            "finished": report.finished,
            "rows": [f"{row} ({count} times)" for row, count in report.rows],
            "silenced": [f"{finding.rule}: {reason}" for finding, reason in report.silenced],
        },
    }
    if report.root:
        run["originalUriBaseIds"] = {_BASE: {"uri": _folder_uri(report.root)}}
    return run


# -- rules -----------------------------------------------------------------------------------------------


def _rule(rule: RuleTold) -> dict[str, Any]:
    page = rule.page or rule.summary or rule.rule
    told: dict[str, Any] = {
        "id": rule.rule,
        "name": "".join(word.capitalize() for word in re.split(r"\W+", rule.rule)),
        "shortDescription": {"text": _sentence(rule.summary or rule.rule)},
        "fullDescription": {"text": _sentence(_paragraph(page, "What it looks for") or rule.summary or rule.rule)},
        "help": {"text": page, "markdown": _markdown(page)},
        "properties": {"tags": ["pytorch", "training"]},
    }
    if rule.severity:
        told["defaultConfiguration"] = {"level": _LEVELS[Severity(rule.severity)]}
        told["properties"]["problem.severity"] = _KINDS[rule.severity]
    if rule.confidence:
        told["properties"] |= {"confidence": rule.confidence, "precision": _PRECISION[Confidence(rule.confidence)]}
    return told


def _paragraph(page: str, heading: str) -> str:
    _, _, rest = page.partition(f"\n{heading}\n")
    return " ".join(rest.partition("\n\n")[0].split())


def _markdown(page: str) -> str:
    """The page with its headings as headings; what stands below one is indented, and code where it is a loop."""
    parts, code = [], False
    for part in page.split("\n\n"):
        head, _, body = part.partition("\n")
        if body and not head.startswith(" ") and body.startswith("    "):
            code = head.startswith("A loop")
            parts.append(f"### {head}")
            part = body
        if part.startswith("    "):
            lines = [line.removeprefix("    ") for line in part.split("\n")]
            part = "\n".join(["```python", *lines, "```"] if code else lines)
        parts.append(part)
    return "\n\n".join(parts)


# -- the run ---------------------------------------------------------------------------------------------


def _invocation(report: Report) -> dict[str, Any]:
    told: dict[str, Any] = {"executionSuccessful": report.finished and report.ending != "failed"}
    if report.exit_code is not None:
        told["exitCode"] = report.exit_code
    if report.folder:
        told["workingDirectory"] = {"uri": _folder_uri(report.folder)}
    notes = [
        _note("note", f"not checked: {why}" if rule == "*" else f"{rule} not checked: {why}")
        for rule, why in report.not_checked
    ]
    notes += [
        _note("error", f"the plugin {each.plugin} failed ({each.when}): {each.error}") for each in report.failures
    ]
    if report.ending != "complete":
        notes.append(_note("warning", report.stopping or f"the run {report.ending} before its end"))
    if not report.finished:
        notes.append(_note("warning", "the run was killed, or goes on: this is what it had found"))
    if notes:
        told["toolExecutionNotifications"] = notes
    return told


def _note(level: str, text: str) -> dict[str, Any]:
    return {"level": level, "message": {"text": _sentence(text)}}


# -- results ---------------------------------------------------------------------------------------------


def _results(report: Report, slugs: list[str]) -> list[dict[str, Any]]:
    seen: Counter[str] = Counter()
    identities = {}
    for finding in sorted(report.findings, key=lambda each: each.place.line if each.place else 0):
        identity = _identity(report, finding)
        seen[identity] += 1
        identities[finding.key] = f"{identity}:{seen[identity]}"
    return [_result(report, finding, slugs, identities[finding.key]) for finding in report.findings]


def _result(report: Report, finding: Finding, slugs: list[str], identity: str) -> dict[str, Any]:
    told: dict[str, Any] = {
        "ruleId": finding.rule,
        "ruleIndex": slugs.index(finding.rule),
        "level": _LEVELS[finding.severity],
        "kind": "fail",
        "message": {
            "text": f"{_sentence(finding.seen)} Why: {_sentence(finding.why)} Try: {_sentence(finding.remedy)}",
            "markdown": f"{_sentence(finding.seen)}\n\n**Why** {_sentence(finding.why)}\n\n"
            f"**Try** {_sentence(finding.remedy)}",
        },
        "locations": _locations(report, finding),
        "partialFingerprints": {_FINGERPRINT: identity},
        "occurrenceCount": max(1, finding.count),
        "properties": {
            "step": finding.step,
            "count": finding.count,
            "confidence": str(finding.confidence),
            "subject": finding.subject,
            "evidence": dict(finding.evidence),
        },
    }
    if finding.rank is not None:
        told["properties"]["rank"] = finding.rank
    if finding.places:
        told["relatedLocations"] = [
            {"id": number, "message": {"text": name.replace("_", " ")}, **_location(report, place)}
            for number, (name, place) in enumerate(finding.places.items(), 1)
        ]
    return told


def _identity(report: Report, finding: Finding) -> str:
    """What stays the same when code above the line grows: not the number, but the text of the line."""
    place = finding.place
    parts = [finding.rule, re.sub(r":\d+", "", finding.subject)]
    if place is not None:
        text = report.lines.get((place.file, place.line), "")
        parts += [report.where(place.file) or Path(place.file).name, place.function, " ".join(text.split())]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _locations(report: Report, finding: Finding) -> list[dict[str, Any]]:
    """The finding's line; where no line is to blame the script, since code hosts take no result without a place."""
    if finding.place is not None:
        return [_location(report, finding.place)]
    if report.script:
        whole = {"artifactLocation": _artifact(report, report.script), "region": {"startLine": 1}}
        return [{"physicalLocation": whole}]
    return []


def _location(report: Report, place: Place) -> dict[str, Any]:
    region: dict[str, Any] = {"startLine": max(1, place.line)}
    if text := report.lines.get((place.file, place.line)):
        region["snippet"] = {"text": text}
    return {
        "physicalLocation": {"artifactLocation": _artifact(report, place.file), "region": region},
        "logicalLocations": [{"fullyQualifiedName": place.function, "kind": "function"}],
    }


def _artifact(report: Report, file: str) -> dict[str, Any]:
    """Relative to the repository; absolute for a file elsewhere; a name alone for what is no file (`<stdin>`)."""
    inside = report.where(file)
    if inside is not None:
        return {"uri": _quoted(inside), "uriBaseId": _BASE}
    if Path(file).is_absolute():
        return {"uri": Path(file).as_uri()}
    return {"uri": _quoted(file)}


def _folder_uri(folder: str) -> str:
    return Path(folder).as_uri().rstrip("/") + "/" if Path(folder).is_absolute() else _quoted(folder) + "/"


def _quoted(path: str) -> str:
    from urllib.parse import quote

    return quote(path, errors="surrogateescape")


# -- text and values -------------------------------------------------------------------------------------


def _sentence(text: str) -> str:
    """With a capital at its beginning, unless that is a name in code, and a full stop at its end."""
    text = text.strip()
    if text and re.match(r"[a-z]+[\s,:]", text):
        text = text[0].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _plain(value: Any) -> Any:
    """What JSON can hold, strictly: it has no NaN, no infinity, and no half of a surrogate pair."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, Mapping):
        return {_plain(str(key)): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return _plain(repr(value))
