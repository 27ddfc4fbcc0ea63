"""Generated loops, judged by an oracle over the plain list of their calls; the checks must say the same, both ways.

The oracle knows neither ledger nor graph: it holds, for each optimizer, which backwards are in its gradients, which a
step has used, and what each weighs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
from hypothesis import given, settings

import loopkit
from loopkit import Severity
from tests.properties.made_loops import Call, Plan, Training, plans

EXAMPLES = int(os.environ.get("LOOPKIT_LOOPS", "1000"))
"""Generated loops a run: `LOOPKIT_LOOPS=20000 pytest tests/properties/test_checks.py` before a release."""


class Book:
    """One optimizer's gradients, as the calls tell."""

    def __init__(self) -> None:
        self.fresh: list[float] = []  # the weight of each backward since the last step
        self.used = 0  # backwards that a step has used and nobody cleared
        self.wiped = 0  # backwards since the last step that were cleared unused
        self.forward_since = False  # since they were cleared
        self.epochs_wiped = 0
        self.opened: list[
            tuple[bool, int]
        ] = []  # of each step: whether an epoch began in its window, how many before
        self.windows: list[list[float]] = []
        self.epoch_at: int | None = None
        self.broken: dict[str, int] = {}

    def note(self, rule: str) -> None:
        self.broken[rule] = self.broken.get(rule, 0) + 1

    def step(self) -> None:
        if self.fresh and self.used:
            self.note("missing-zero-grad")
        if not self.fresh and self.wiped and not self.forward_since:
            self.note("zero-grad-before-step")
        elif not self.fresh:
            self.note("step-without-fresh-grad")
        elif self.wiped and len(self.fresh) == 1:
            self.note("zero-grad-before-step")
        if self.fresh:
            self.windows.append(self.fresh)
            self.opened.append((self.epoch_at is not None, self.epoch_at or 0))
        self.used += len(self.fresh)
        self.fresh, self.wiped, self.epoch_at = [], 0, None

    def epoch(self) -> None:
        self.epoch_at = len(self.fresh)

    def clear(self) -> None:
        self.wiped += len(self.fresh)
        self.epochs_wiped += bool(self.fresh and self.epoch_at)
        self.fresh, self.used, self.forward_since = [], 0, False

    def judge_windows(self) -> None:
        """Once all windows are there: whether they weigh what they should, and are alike."""
        sizes = [len(window) for window in self.windows]
        several = [window for window in self.windows if len(window) > 1]
        wrong = [window for window in several if all(each == 1 for each in window) or _twice(window)]
        # A quarter in a window of two says nothing: it may be half of something, divided by two.
        if wrong and all(window in wrong or len(window) == 2 for window in several):
            self.note("accum-scale-wrong")
        usual = max(set(sizes), key=sizes.count, default=0)
        if usual < 2:
            return
        first = [size for size, (begins, before) in zip(sizes, self.opened, strict=True) if begins and not before]
        if set(first) == {1} or self.epochs_wiped > 1 or self._is_much(usual):
            self.note("accum-window-uneven")

    def _is_much(self, usual: int) -> bool:
        """Whether odd windows ever weighed more than one of twenty too much, or too little, of all until then."""
        full = next(window for window in self.windows if len(window) == usual)
        heavier = lighter = 0.0
        lights = 0
        for step, (window, (_, before)) in enumerate(zip(self.windows, self.opened, strict=True), 1):
            size, weight = len(window), sum(window)
            if size == usual + before > usual:
                heavier += size / usual - 1
            elif size < usual and abs(weight - size / usual) < 1e-6 and abs(sum(full) - 1) < 1e-6:
                lighter, lights = lighter + 1 - weight, lights + (2 * size <= usual)
            if max(heavier, lighter if lights > 1 else 0) * 20 > step + 1e-6:
                return True
        return False


def _twice(window: list[float]) -> bool:
    """Whether each of its losses, of more than two, was divided by its length twice."""
    return len(window) > 2 and all(abs(each * len(window) ** 2 - 1) < 1e-6 for each in window)


def oracle(calls: Iterable[Call], parts: int) -> set[str]:
    """The rules that the calls of a loop break."""
    books = [Book() for _ in range(parts)]
    advances = [0] * parts
    for call in calls:
        if call.kind == "epoch":
            for book in books:
                book.epoch()
            continue
        book = books[call.part]
        if call.kind == "backward":
            book.fresh.append(call.weight)
        elif call.kind == "clear":
            book.clear()
        elif call.kind == "forward":
            book.forward_since = True
        elif call.kind == "step":
            book.step()
        elif call.kind == "skip":
            book.used += len(book.fresh)
            book.fresh = []
        elif call.kind == "schedule":
            advances[call.part] += 1
    for book in books:
        book.judge_windows()
    broken = {rule for book in books for rule in book.broken}
    steps = sum(call.kind in ("step", "skip") for call in calls)
    if sum(advances) > steps:
        broken.add("scheduler-outpaces-optimizer")
    return broken


def said(plan: Plan) -> tuple[set[str], set[str]]:
    """What the checks say of a planned loop, and what the oracle does."""
    torch.manual_seed(0)
    with loopkit.watch(skip=["console"]) as run:
        training = Training(plan)
        calls = training.run()
    assert not run.failures
    found = {finding.rule for finding in run.findings if finding.severity.at_least(Severity.WARNING)}
    return found, oracle(calls, len(plan.optimizers))


@settings(max_examples=EXAMPLES)
@given(plans())
def test_checks_and_oracle_agree(plan: Plan) -> None:
    found, expected = said(plan)
    assert found == expected
