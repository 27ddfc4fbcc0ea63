"""The report as JUnit XML: a suite for the run, a case for each rule that was looked for, and for each finding.

A finding fails its case where it makes the exit code 1; below that the case passes and says what was found.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from loopkit import Finding, Report, ReportWriter

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class JUnit(ReportWriter):
    """Writes the report as JUnit XML."""

    def text(self, report: Report) -> str:
        """The report as one document."""
        suite = _suite(report)
        counts = {name: suite.get(name, "0") for name in ("tests", "failures", "errors", "skipped")}
        root = ElementTree.Element("testsuites", {"name": "loopkit", **counts})
        root.append(suite)
        ElementTree.indent(root)
        return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode")


def _suite(report: Report) -> ElementTree.Element:
    cases = [*_found(report), *_not_found(report), *_broken(report)]
    kinds = [case[0].tag if len(case) else "" for case in cases]
    suite = ElementTree.Element("testsuite", {"name": _clean(_name(report)), "tests": str(len(cases))})
    for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(attribute, str(kinds.count(tag)))
    if report.seconds is not None:
        suite.set("time", f"{report.seconds:.3f}")
    properties = {
        "loopkit": report.version,
        "steps": str(report.steps),
        "finished": str(report.finished).lower(),
        "overhead": f"{report.overhead:.4f}",
    }
    listed = ElementTree.SubElement(suite, "properties")
    for name, value in properties.items():
        ElementTree.SubElement(listed, "property", {"name": name, "value": value})
    suite.extend(cases)
    notes = [f"not checked: {why}" for rule, why in report.not_checked if rule == "*"]
    notes += [f"silenced: {_where(report, each)} {each.rule} ({reason})" for each, reason in report.silenced]
    if notes:
        _say(suite, "system-out", "\n".join(notes))
    return suite


def _name(report: Report) -> str:
    return report.where(report.script) or report.script or "loopkit"


def _found(report: Report) -> list[ElementTree.Element]:
    cases = []
    for finding in report.findings:
        where = _where(report, finding)
        case = _case(finding.rule, f"{finding.rule} at {where}" if where else finding.rule)
        if finding.place is not None:
            case.set("file", _clean(report.where(finding.place.file) or finding.place.file))
            case.set("line", str(finding.place.line))
        step = f", step {finding.step}" if finding.step is not None else ""
        head = f"{where + ': ' if where else ''}{finding.severity}: {finding.rule} ({finding.confidence}{step})"
        text = f"{head}\nseen: {finding.seen}\nwhy: {finding.why}\ntry: {finding.remedy}"
        if report.fails(finding):
            _say(case, "failure", text, message=finding.seen, type=finding.rule)
        else:
            _say(case, "system-out", text)
        cases.append(case)
    return cases


def _where(report: Report, finding: Finding) -> str:
    place = finding.place
    return f"{report.where(place.file) or place.file}:{place.line}" if place is not None else ""


def _not_found(report: Report) -> list[ElementTree.Element]:
    cases, found = [], {finding.rule for finding in report.findings}
    reasons = {rule: why for rule, why in report.not_checked if rule != "*"}
    nothing = next((why for rule, why in report.not_checked if rule == "*"), "") if not report.steps else ""
    for rule in report.rules:
        if rule.rule not in found:
            case = _case(rule.rule, rule.rule)
            why = reasons.get(rule.rule) or nothing
            if why:
                _say(case, "skipped", "", message=f"not checked: {why}")
            cases.append(case)
    return cases


def _broken(report: Report) -> list[ElementTree.Element]:
    """Plugins that failed, and the script itself if it did."""
    cases = []
    for failure in report.failures:
        case = _case("plugins", failure.plugin)
        _say(case, "error", failure.error, message=f"failed ({failure.when})", type="plugin")
        cases.append(case)
    if report.ending == "failed":
        case = _case("script", _name(report))
        code = "" if report.exit_code is None else f" with exit code {report.exit_code}"
        _say(case, "error", "", message=f"the script failed{code}", type="script")
        cases.append(case)
    return cases


def _case(group: str, name: str) -> ElementTree.Element:
    return ElementTree.Element("testcase", {"classname": _clean(f"loopkit.{group}"), "name": _clean(name)})


def _say(case: ElementTree.Element, tag: str, text: str, **attributes: str) -> None:
    said = ElementTree.SubElement(case, tag, {name: _clean(value) for name, value in attributes.items()})
    said.text = _clean(text) or None


def _clean(text: str) -> str:
    """Without the characters that XML cannot hold, and a line's end is one character there."""
    return _FORBIDDEN.sub("\ufffd", text).replace("\r\n", "\n").replace("\r", "\n")
