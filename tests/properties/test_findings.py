"""Laws of findings: JSON and back is the identity; the order of plugins changes nothing."""

from __future__ import annotations

import importlib
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

import loopkit
from loopkit import Confidence, Finding, Place, Severity
from loopkit_plugins.checks.order import CHECKS
from tests.loops import adamw, batches, loss_of, model

places = st.builds(Place, st.text(min_size=1), st.integers(1, 10**6), st.text())
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
findings = st.builds(
    Finding,
    rule=st.text(),
    severity=st.sampled_from(Severity),
    confidence=st.sampled_from(Confidence),
    seen=st.text(),
    why=st.text(),
    remedy=st.text(),
    place=st.none() | places,
    places=st.dictionaries(st.text(), places, max_size=3),
    subject=st.text(),
    evidence=st.dictionaries(st.text(), values, max_size=3),
    step=st.none() | st.integers(0),
    count=st.integers(1),
    rank=st.none() | st.integers(0),
)


@given(findings)
def test_a_finding_survives_json(finding: Finding) -> None:
    assert Finding.from_dict(json.loads(json.dumps(finding.to_dict()))) == finding


def _checks() -> list[type[Any]]:
    found = []
    for target in CHECKS:
        module, _, name = target.partition(":")
        found.append(getattr(importlib.import_module(module), name))
    return found


def _bad_loop(steps: list[str]) -> None:
    net = model()
    optimizer = adamw(net)
    for i, (x, y) in enumerate(batches(len(steps))):
        if "clear first" in steps[i]:
            optimizer.zero_grad()
        loss_of(net(x), y).backward()
        if "clear last" in steps[i]:
            optimizer.zero_grad()
        for _ in range(steps[i].count("step")):
            optimizer.step()


kinds = ["clear first, step", "step", "clear last, step", "step step", "clear first", ""]


@settings(max_examples=40)
@given(st.permutations(_checks()), st.lists(st.sampled_from(kinds), min_size=2, max_size=8))
def test_the_order_of_plugins_does_not_change_the_findings(order: list[type[Any]], steps: list[str]) -> None:
    found = []
    for plugins in (_checks(), order):
        with loopkit.watch(autoload=False, plugins=plugins) as run:
            _bad_loop(steps)
        found.append(
            {(each.rule, each.place, each.subject, each.step, each.count, each.seen) for each in run.findings}
        )
    assert found[0] == found[1]
