"""A loss that is to be made small is made large."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from loopkit import Confidence, Criteria, Event, Finding, Ledger, LossReading, Run, Severity, Site, Update, hookimpl

_READINGS = 3
"""Values that must have been seen, the last of them the largest."""
_RISE = 1.5
"""How many times its first value the loss must be by then."""
_UNTRAINED = 0.5
"""The share of the loss of a guess below which a classifier had been trained before: to make it forget is meant."""
_LOSSES = {
    "NllLoss": ("cross_entropy", "nll_loss"),
    "NllLoss2D": ("cross_entropy", "nll_loss"),
    "MseLoss": ("mse_loss",),
    "SmoothL1Loss": ("smooth_l1_loss",),
    "HuberLoss": ("huber_loss",),
    "BinaryCrossEntropy": ("binary_cross_entropy",),
    "BinaryCrossEntropyWithLogits": ("binary_cross_entropy_with_logits",),
}
"""Losses that are least where prediction and target agree, by the names of their nodes."""


@dataclass
class _Course:
    """The values of a loss that is made large, from the line that sends it backward."""

    site: Site
    kind: str
    reason: str
    values: list[float]
    least: float


class LossWrongSign:
    """A loss is maximised: its sign was flipped, or the optimizer was told to.

    What it looks for
        A loss of torch that is least where prediction and target agree (cross-entropy, MSE, Huber, binary
        cross-entropy), sent backward as it is but times a negative number, or into an optimizer with `maximize=True`;
        and that has grown by half in the batches looked at, each time further.

    Why that hurts
        Every step makes the model worse.

    A loop that has it
        loss = -criterion(model(x), y)
        loss.backward()
        optimizer.step()

    The repair
        Leave out the minus, or `maximize=True`. Both together cancel out.

    Left alone
        Attacks, whose loss reaches no weights; runs with several optimizers, or with several losses of other signs
        (games, gradient reversal); sums with another term; likelihoods, rewards and similarities, which may have any
        sign; a classifier that was better than a guess when it was first seen, which may be meant to forget; a loss
        that does not grow.

    What it costs
        Nothing that is not read anyway.
    """

    rule = "loss-wrong-sign"
    severity = Severity.WARNING
    confidence = Confidence.FACT

    def __init__(self) -> None:
        self._courses: dict[int, _Course] = {}
        self._other = False  # some loss is made small, or is of another kind

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> Iterator[Finding]:
        """Follow each loss that is made large."""
        owners = run.instrument(Ledger).owners()
        maximizes = {bool(group.get("maximize")) for owner in owners for group in _groups(owner.optimizer())}
        calls = run.instrument(Criteria).of(update).calls
        for event, loss in update.losses():
            reason = _reason(loss, maximizes)
            self._other |= not reason
            if reason and event.site is not None and (loss.parameters or not loss.walked):
                kinds = _LOSSES[loss.terms[0].kind]
                values = [call for call in calls if call.kind in kinds]
                if values:
                    self._follow(event, kinds[0], reason, values[-1].numbers["loss"], values[0].classes)
        if len(owners) == 1 and len(self._courses) == 1 and not self._other:
            for course in self._courses.values():
                if _grows(course):
                    yield self._finding(course)

    def _follow(self, event: Event, kind: str, reason: str, value: float, classes: int) -> None:
        assert event.site is not None
        least = _UNTRAINED * math.log(classes) if classes > 1 else 0.0
        course = self._courses.setdefault(event.site.number, _Course(event.site, kind, reason, [], least))
        course.values.append(value)

    def _finding(self, course: _Course) -> Finding:
        first, last = course.values[0], course.values[-1]
        minus = course.reason == "minus"
        what = "is sent backward with a minus" if minus else "is maximised by the optimizer (maximize=True)"
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=course.site.place,
            seen=f"{course.kind} {what}, and has grown from {first:.4g} to {last:.4g}",
            why="this loss is least where prediction and target agree: every step makes the model worse",
            remedy="leave out the minus" if minus else "leave out maximize=True",
            evidence={
                "loss": course.kind,
                "first": first,
                "last": last,
                "values": len(course.values),
                "how": course.reason,
                "framework": str(course.site.framework) if course.site.framework else None,
            },
        )


def _groups(optimizer: object) -> list[dict[str, object]]:
    found: list[dict[str, object]] = getattr(optimizer, "param_groups", [])
    return found


def _reason(loss: LossReading, maximizes: set[bool]) -> str:
    """How this loss is made large; "" where it is not, or is not of the kind."""
    if len(loss.terms) != 1 or loss.terms[0].kind not in _LOSSES or len(maximizes) != 1:
        return ""
    factor = loss.factor * loss.terms[0].factor
    maximize = True in maximizes
    if factor < 0:
        return "" if maximize else "minus"
    return "maximize" if maximize and factor > 0 else ""


def _grows(course: _Course) -> bool:
    values = course.values
    if len(values) < _READINGS or not values[0] >= course.least:
        return False
    last = values[-1]
    grown = last >= _RISE * values[0] and last >= max(values)
    return grown and last > 0
