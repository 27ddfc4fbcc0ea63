"""Targets lie where the loss, or the activation before it, cannot go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from loopkit import Confidence, Criteria, CriterionReading, Finding, Run, Severity, Update, hookimpl

_NEAR = 0.3
"""How far beyond 0 and 1 a soft label of a game may lie: 1.2 for real, as some train them."""
_SHARE = 0.05
"""The share of targets out of an activation's range from which on it is said."""
_BEYOND = 0.05
"""How far out of that range the extreme must lie: targets that stand at its end are meant."""
_REGRESSIONS = frozenset(("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"))
_RANGES = {"Sigmoid": (0.0, 1.0), "Softmax": (0.0, 1.0), "Tanh": (-1.0, 1.0)}
_COUNTS = {0.0: "below_0", 1.0: "above_1", -1.0: "below_-1"}


class _Wrong(NamedTuple):
    seen: str
    why: str
    remedy: str
    confidence: Confidence = Confidence.PROOF


class TargetOutOfRange:
    """Targets are out of the domain of the loss, or of what the last activation can give.

    What it looks for
        Binary cross-entropy whose targets lie below 0 or above 1: class numbers, labels of -1 and 1, percents.
        Cross-entropy with probabilities as targets, some of which are negative. A regression (MSE, L1, Huber) whose
        input comes straight from a sigmoid, softmax or tanh, while a twentieth of its targets or more lie out of
        that one's range.

    Why that hurts
        Beyond its domain binary cross-entropy has no least value: the loss falls below zero without bound, and the
        scores run away. A target that the last activation cannot give pulls it into its flat end, where no gradient
        is left.

    A loop that has it
        y = torch.randint(0, 10, (32, 1)).float()        # numbers of ten classes
        loss = F.binary_cross_entropy_with_logits(model(x), y)

    The repair
        Map the targets into the domain (0 and 1; one column a class), or take the loss that is made for them:
        `CrossEntropyLoss` for class numbers, a hinge loss for -1 and 1. Drop the last activation, or scale targets.

    Left alone
        Smoothed labels; soft labels a little beyond 0 and 1, as some games are trained with; few outliers of a
        regression; activations that are scaled afterwards; losses whose elements are not reduced by the loss itself,
        which may mask them.

    What it costs
        Extremes of the targets in the first four updates, in new shapes of update, and then ever more rarely.
    """

    rule = "target-out-of-range"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> Iterator[Finding]:
        """Judge the targets of each call of a loss that was read."""
        for call in run.instrument(Criteria).of(update).calls:
            if "part" not in call.numbers or call.reduction == "none" or call.weighted:
                continue
            wrong = _of_binary(call) or _of_distribution(call) or _of_regression(call)
            if wrong is not None:
                yield self._finding(call, wrong)

    def _finding(self, call: CriterionReading, wrong: _Wrong) -> Finding:
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=wrong.confidence,
            place=call.site.place,
            seen=wrong.seen,
            why=wrong.why,
            remedy=wrong.remedy,
            evidence={
                "loss": call.kind,
                "low": call.numbers["low"],
                "high": call.numbers["high"],
                "made_by": call.origin,
                "framework": str(call.site.framework) if call.site.framework else None,
            },
        )


def _of_binary(call: CriterionReading) -> _Wrong | None:
    numbers = call.numbers
    low, high = numbers["low"], numbers["high"]
    if not call.kind.startswith("binary_cross_entropy") or (low >= 0 and high <= 1):
        return None
    if numbers["part"] and low >= -_NEAR and high <= 1 + _NEAR:
        return None
    out = int(numbers["below_0"] + numbers["above_1"])
    return _Wrong(
        f"{out:,} of {_count(call):,} targets of {call.kind} lie outside 0 … 1: from {low:.4g} to {high:.4g}",
        "binary cross-entropy has no least value for such a target: the loss falls below zero without bound",
        "map the targets to 0 and 1, or use cross_entropy if they are numbers of classes"
        if not numbers["part"]
        else "scale the targets to 0 … 1, or use a loss for numbers such as mse_loss",
    )


def _of_distribution(call: CriterionReading) -> _Wrong | None:
    low = call.numbers["low"]
    if call.kind != "cross_entropy" or low >= 0:
        return None
    return _Wrong(
        f"{int(call.numbers['below_0']):,} of {_count(call):,} target probabilities of cross_entropy are negative, "
        f"down to {low:.4g}",
        "a negative probability rewards the model for being wrong there: the loss has no least value",
        "give cross_entropy class numbers, or probabilities that sum to 1; for scores as targets use mse_loss",
    )


def _of_regression(call: CriterionReading) -> _Wrong | None:
    bounds = _RANGES.get(call.origin)
    if call.kind not in _REGRESSIONS or bounds is None:
        return None
    numbers = call.numbers
    least, most = bounds
    out = int(numbers[_COUNTS[least]] + numbers[_COUNTS[most]])
    if out < _SHARE * _count(call) or (numbers["low"] >= least - _BEYOND and numbers["high"] <= most + _BEYOND):
        return None
    return _Wrong(
        f"{out:,} of {_count(call):,} targets of {call.kind} lie outside {least:g} … {most:g}, the range of the "
        f"{call.origin.lower()} that its input ends in: from {numbers['low']:.4g} to {numbers['high']:.4g}",
        "no weights can give such a target: the activation is pulled into its flat end, where no gradient is left",
        f"leave out the last {call.origin.lower()}, or scale the targets to {least:g} … {most:g}",
    )


def _count(call: CriterionReading) -> int:
    count = 1
    for size in call.target_shape:
        count *= size
    return count
