"""SARIF: what an independent reader of the standard makes of it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from sarif_pydantic import Sarif

import loopkit_plugins.sinks.sarif as sink
from loopkit import Finding, Place, Report, Severity
from loopkit.manager import Failure
from tests.reports import made
from tests.reports.made import ROOT, finding, report


def run_of(told: Report) -> dict[str, Any]:
    text = sink.Sarif().text(told)
    Sarif.model_validate_json(text)
    log = json.loads(text, parse_constant=lambda name: 1 / 0)  # NaN is no JSON
    (run,) = log["runs"]
    return dict(run)


def prints(*found: Finding, **changes: Any) -> list[str]:
    return [next(iter(each["partialFingerprints"].values())) for each in run_of(report(*found, **changes))["results"]]


@given(made.reports)
def test_any_report_is_sarif(told: Report) -> None:
    run = run_of(told)
    assert len(run["results"]) == len(told.findings)
    for result, found in zip(run["results"], told.findings, strict=True):
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"] == found.rule
        assert result["properties"]["step"] == found.step
    identities = [json.dumps(each["partialFingerprints"]) for each in run["results"]]
    assert len(set(identities)) == len(identities)
    for location in (each["physicalLocation"] for result in run["results"] for each in result["locations"]):
        assert location["artifactLocation"].get("uriBaseId", "SRCROOT") in run.get(
            "originalUriBaseIds", {"SRCROOT": 0}
        )
        assert " " not in location["artifactLocation"]["uri"]


def test_a_rule_brings_its_page() -> None:
    (rule,) = run_of(report(finding()))["tool"]["driver"]["rules"]
    assert rule["id"] == "missing-zero-grad"
    assert rule["shortDescription"]["text"].startswith("Gradients are never cleared")
    assert rule["fullDescription"]["text"].startswith("At an optimizer's step")
    assert "optimizer.zero_grad()" in rule["help"]["text"]
    assert "### The repair" in rule["help"]["markdown"]
    assert "```python\nfor x, y in loader:\n    loss =" in rule["help"]["markdown"]
    assert rule["defaultConfiguration"] == {"level": "error"}
    assert rule["properties"]["precision"] == "very-high"


def test_levels() -> None:
    found = [finding(rule=f"rule-{each}", severity=each) for each in Severity]
    levels = {each["ruleId"]: each["level"] for each in run_of(report(*found))["results"]}
    assert levels == {"rule-error": "error", "rule-warning": "warning", "rule-info": "note"}


def test_a_file_in_the_repository_is_relative_and_one_outside_is_not() -> None:
    inside, outside, none = finding(), finding(place=Place("/opt/lib/a b.py", 3)), finding(place=None)
    cell = finding(place=Place("<ipython-input-3>", 1))
    run = run_of(report(inside, outside, none, cell))
    artifacts = [each["locations"][0]["physicalLocation"]["artifactLocation"] for each in run["results"]]
    assert artifacts == [
        {"uri": "src/train.py", "uriBaseId": "SRCROOT"},
        {"uri": "file:///opt/lib/a%20b.py"},
        {"uri": "src/train.py", "uriBaseId": "SRCROOT"},  # code hosts refuse a result without a place
        {"uri": "%3Cipython-input-3%3E"},
    ]
    assert run["originalUriBaseIds"] == {"SRCROOT": {"uri": f"file://{ROOT}/"}}
    assert run["results"][0]["locations"][0]["physicalLocation"]["region"]["startLine"] == 8


def test_fingerprints_survive_code_that_grows_above() -> None:
    file = f"{ROOT}/src/train.py"
    moved = finding(place=Place(file, 20, "main"), subject="SGD at train.py:19", step=9, count=7)
    before = finding(subject="SGD at train.py:7")
    assert prints(before) == prints(moved, lines={(file, 20): "loss.backward()"})


def test_fingerprints_tell_apart_what_differs() -> None:
    file = f"{ROOT}/src/train.py"
    base = prints(finding())
    assert prints(finding(rule="other-rule")) != base
    assert prints(finding(subject="Adam")) != base
    assert prints(finding(place=Place(file, 8, "other"))) != base
    assert prints(finding(place=Place(f"{ROOT}/other.py", 8, "main"))) != base
    assert prints(finding(), lines={(file, 8): "other.backward()"}) != base
    twice = {(file, 8): "loss.backward()", (file, 12): "loss.backward()"}
    first, second = prints(finding(place=Place(file, 12, "main")), finding(), lines=twice)
    assert first != second
    assert second == base[0]


def test_the_invocation_says_how_it_ended() -> None:
    told = report(
        exit_code=1, not_checked=[("future-leak", "no probe")], failures=[Failure("mine", "import", "no luck")]
    )
    (invocation,) = run_of(told)["invocations"]
    assert invocation["exitCode"] == 1
    assert invocation["executionSuccessful"] is True
    assert invocation["workingDirectory"] == {"uri": f"file://{ROOT}/src/"}
    levels = [(each["level"], each["message"]["text"]) for each in invocation["toolExecutionNotifications"]]
    assert ("error", "The plugin mine failed (import): no luck.") in levels
    assert ("note", "future-leak not checked: no probe.") in levels
    for changes in ({"ending": "failed"}, {"finished": False}):
        (invocation,) = run_of(report(**changes))["invocations"]
        assert invocation["executionSuccessful"] is False


def test_what_is_silenced_is_no_result() -> None:
    run = run_of(report(silenced=[(finding(), "ignored by name")]))
    assert run["results"] == []
    assert run["properties"]["silenced"] == ["missing-zero-grad: ignored by name"]


def test_evidence_that_json_cannot_hold_is_written_as_text() -> None:
    run = run_of(report(finding(evidence={"loss": float("nan"), "odd": {1: object, "deep": [float("-inf")]}})))
    evidence = run["results"][0]["properties"]["evidence"]
    assert evidence == {"loss": "nan", "odd": {"1": "<class 'object'>", "deep": ["-inf"]}}
