"""Which findings are shown: the gravest first, and no symptom beside the error that explains it."""

from __future__ import annotations

import pytest

import loopkit
from loopkit import Confidence, Finding, Run, Severity, hookimpl


class Says:
    """Reports one finding when the run ends."""

    def __init__(self, rule: str, severity: Severity, confidence: Confidence, symptom: bool = False) -> None:
        self.rule = rule
        self.symptom = symptom
        self._finding = Finding(rule, severity, confidence, "seen", "why", "try")

    @hookimpl
    def run_finished(self) -> Finding:
        return self._finding


ERROR = Says("an-error", Severity.ERROR, Confidence.PROOF)
REMARK = Says("a-remark", Severity.INFO, Confidence.FACT)
GUESS = Says("a-guess", Severity.WARNING, Confidence.HEURISTIC)
SYMPTOM = Says("a-symptom", Severity.WARNING, Confidence.HEURISTIC, symptom=True)
FACT = Says("a-fact", Severity.WARNING, Confidence.FACT)


def ran(*plugins: object) -> Run:
    with loopkit.watch(autoload=False, plugins=plugins) as run:
        pass
    return run


def test_the_gravest_and_surest_come_first() -> None:
    run = ran(REMARK, GUESS, FACT, ERROR)
    assert [each.rule for each in run.findings] == ["an-error", "a-fact", "a-guess", "a-remark"]


@pytest.mark.parametrize("order", [(SYMPTOM, ERROR), (ERROR, SYMPTOM)])
def test_an_error_explains_a_symptom_whichever_comes_first(order: tuple[Says, Says]) -> None:
    run = ran(*order, GUESS)
    assert [each.rule for each in run.findings] == ["an-error", "a-guess"]
    assert run.findings[0].evidence["explains"] == ["a-symptom"]
    assert [(each.rule, why) for each, why in run.silenced] == [("a-symptom", "explained by an-error")]


def test_without_an_error_the_symptom_is_shown() -> None:
    run = ran(SYMPTOM, FACT)
    assert {each.rule for each in run.findings} == {"a-symptom", "a-fact"}
    assert "explains" not in run.findings[0].evidence


def test_a_symptom_explains_no_other() -> None:
    worse = Says("b-symptom", Severity.ERROR, Confidence.HEURISTIC, symptom=True)
    assert len(ran(SYMPTOM, worse).findings) == 2
