"""Reports that no run made: any text, any place."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from loopkit import Confidence, Finding, Place, Report, RuleTold, Severity
from loopkit.manager import Failure

ROOT = "/home/somebody/project"

texts = st.text(st.characters(codec="utf-8"), max_size=30)
paths = st.text("abc,:%é ", min_size=1, max_size=8).map(lambda name: f"{ROOT}/{name}.py")
places = st.builds(Place, paths, st.integers(1, 500), texts)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
findings = st.builds(
    Finding,
    rule=st.sampled_from(["missing-zero-grad", "no-such-rule-here"]),
    severity=st.sampled_from(Severity),
    confidence=st.sampled_from(Confidence),
    seen=texts,
    why=texts,
    remedy=texts,
    place=st.none() | places,
    places=st.dictionaries(texts, places, max_size=2),
    subject=texts,
    evidence=st.dictionaries(texts, plain, max_size=3),
    step=st.none() | st.integers(0, 99),
    count=st.integers(1, 99),
    rank=st.none() | st.integers(0, 7),
)
failures = st.builds(Failure, texts, texts, texts)
rules = st.builds(RuleTold, rule=texts, severity=st.sampled_from(["", *Severity]).map(str), summary=texts, page=texts)
reports = st.builds(
    Report,
    finished=st.booleans(),
    steps=st.integers(0, 99),
    processes=st.integers(1, 4),
    overhead=st.integers(0, 100).map(lambda share: share / 100),
    findings=st.lists(findings, max_size=3, unique_by=lambda each: each.key),
    rows=st.lists(st.tuples(texts, st.integers(1, 9)), max_size=2),
    not_checked=st.lists(st.tuples(st.sampled_from(["*", "future-leak"]), texts), max_size=2),
    silenced=st.lists(st.tuples(findings, texts), max_size=2),
    failures=st.lists(failures, max_size=2),
    folder=st.sampled_from(["", ROOT, f"{ROOT}/src"]),
    root=st.sampled_from(["", ROOT]),
    script=st.sampled_from(["", f"{ROOT}/train.py"]),
    seconds=st.none() | st.integers(0, 9).map(float),
    ending=st.sampled_from(["complete", "stopped", "failed"]),
    stopping=st.none() | texts,
    exit_code=st.none() | st.integers(0, 255),
    fail_on=st.sampled_from(["error", "warning", "never"]),
    rules=st.lists(rules, max_size=2),
    lines=st.dictionaries(st.tuples(paths, st.integers(1, 500)), texts, max_size=2),
)


def finding(**changes: Any) -> Finding:
    values: dict[str, Any] = {
        "rule": "missing-zero-grad",
        "severity": Severity.ERROR,
        "confidence": Confidence.PROOF,
        "seen": "seen",
        "why": "why",
        "remedy": "try",
        "place": Place(f"{ROOT}/src/train.py", 8, "main"),
        "step": 2,
    }
    return Finding(**(values | changes))


def report(*found: Finding, **changes: Any) -> Report:
    values: dict[str, Any] = {
        "finished": True,
        "steps": 4,
        "processes": 1,
        "overhead": 0.01,
        "findings": list(found),
        "folder": f"{ROOT}/src",
        "root": ROOT,
        "script": f"{ROOT}/src/train.py",
        "lines": {(f"{ROOT}/src/train.py", 8): "loss.backward()"},
    }
    return Report(**(values | changes))
