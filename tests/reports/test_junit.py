"""JUnit XML, as a parser reads it."""

from __future__ import annotations

from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from hypothesis import given

from loopkit import Report, RuleTold, Severity
from loopkit.manager import Failure
from loopkit_plugins.sinks.junit import JUnit
from tests.reports import made
from tests.reports.made import finding, report


def suite_of(told: Report) -> Element:
    root = ElementTree.fromstring(JUnit().text(told).encode())
    (suite,) = root
    assert root.tag == "testsuites"
    return suite


def case(suite: Element, name: str) -> Element:
    (found,) = [each for each in suite.iter("testcase") if each.get("name") == name]
    return found


@given(made.reports)
def test_any_report_loads_and_its_numbers_are_those_of_its_cases(told: Report) -> None:
    suite = suite_of(told)
    assert suite.get("tests") == str(len(suite.findall("testcase")))
    for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert suite.get(attribute) == str(len(suite.findall(f"testcase/{tag}")))
    assert suite.get("failures") == str(sum(told.fails(each) for each in told.findings))


def test_a_finding_fails_its_case_where_it_makes_the_exit_code_1() -> None:
    found = [finding(seen="so & so <here>"), finding(rule="mild", severity=Severity.WARNING)]
    suite = suite_of(report(*found))
    failed = case(suite, "missing-zero-grad at src/train.py:8")
    assert (failed.get("file"), failed.get("line")) == ("src/train.py", "8")
    failure = failed.find("failure")
    assert failure is not None
    assert failure.get("message") == "so & so <here>"
    assert "why: why" in (failure.text or "")
    mild = case(suite, "mild at src/train.py:8")
    assert mild.find("failure") is None
    assert "seen: seen" in (mild.findtext("system-out") or "")
    assert suite_of(report(*found, fail_on="warning")).get("failures") == "2"
    assert suite_of(report(*found, fail_on="never")).get("failures") == "0"


def test_each_rule_that_was_looked_for_is_a_case() -> None:
    rules = [RuleTold("missing-zero-grad"), RuleTold("future-leak"), RuleTold("double-softmax")]
    told = report(finding(), rules=rules, not_checked=[("future-leak", "no probe"), ("*", "compiled")])
    suite = suite_of(told)
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "1", "1")
    assert len(case(suite, "double-softmax")) == 0
    skipped = case(suite, "future-leak").find("skipped")
    assert skipped is not None
    assert skipped.get("message") == "not checked: no probe"
    assert suite.findtext("system-out") == "not checked: compiled"
    assert suite_of(report(rules=rules, steps=0, not_checked=[("*", "no step was seen")])).get("skipped") == "3"


def test_plugins_and_a_script_that_failed_are_errors() -> None:
    suite = suite_of(report(failures=[Failure("mine", "import", "no luck\x00")], ending="failed", exit_code=3))
    assert suite.get("errors") == "2"
    assert case(suite, "mine").findtext("error") == "no luck\ufffd"
    error = case(suite, "src/train.py").find("error")
    assert error is not None
    assert error.get("message") == "the script failed with exit code 3"
