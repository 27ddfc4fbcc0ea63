"""Gradients grow by orders of magnitude and stay there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from statistics import median
from typing import ClassVar

from loopkit import Confidence, Finding, Moves, Place, Run, Severity, StepMoves, Update, hookimpl


class ExplodingGradient:
    """Gradients end thousands of times larger than they were, and the weights grow with them.

    What it looks for
        A heuristic. The gradients and a sample of the weights at the first steps of each optimizer, and then at the
        8th, 16th, 32nd …: at the last two looks the gradients are a thousand times their own median before, and the
        weights ten times what they were at first. If the weights have not grown, it is only said (info).

    Why that hurts
        Each step overshoots further than the one before. It usually ends in NaN, or in units that are dead.

    A loop that has it
        optimizer = SGD(model.parameters(), lr=10.0)

    The repair
        Lower the learning rate, warm it up, clip gradients by their norm; look for a bad batch.

    Left alone
        The first steps; spikes that recover; gradients that are clipped, as their clipped size is what is looked at;
        a loss scale, which the scaler has divided out by then. Any error of this run explains it: it is not shown.

    What it costs
        Nothing of its own: what steps do to a few weights is looked at where graphs are walked.
    """

    rule = "exploding-gradient"
    severity = Severity.WARNING
    confidence = Confidence.HEURISTIC
    symptom = True
    thresholds: ClassVar[Mapping[str, float]] = {
        "growth": 1000,  # times the median of earlier looks
        "weights": 10,  # times the weights at first, from which on the harm counts as measured
        "looks": 6,
    }

    def __init__(self) -> None:
        self._steps: dict[int, Place] = {}

    @hookimpl
    def update_finished(self, update: Update) -> None:
        """Remember where each optimizer steps."""
        for event, step in update.steps():
            if event.site is not None:
                self._steps.setdefault(step.number, event.site.place)

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Compare the last looks with those before."""
        looks = run.instrument(Moves).of_steps()
        for number in dict.fromkeys(look.number for look in looks):
            found = self._of([look for look in looks if look.number == number])
            if found is not None:
                yield found

    def _of(self, looks: list[StepMoves]) -> Finding | None:
        if len(looks) < self.thresholds["looks"]:
            return None
        sizes = [_size([move.grad for move in look.moves]) for look in looks]
        weights = [_size([move.weight for move in look.moves]) for look in looks]
        before, last = median(sizes[:-2]), min(sizes[-2:])
        if not (math.isfinite(last) and before > 0 and last >= self.thresholds["growth"] * before):
            return None
        grown = weights[0] > 0 and weights[-1] >= self.thresholds["weights"] * weights[0]
        optimizer, step = looks[0].optimizer, looks[-1].step
        place = self._steps.get(looks[0].number)
        return Finding(
            rule=self.rule,
            severity=Severity.WARNING if grown else Severity.INFO,
            confidence=self.confidence,
            place=place,
            places={"step": place} if place else {},
            subject=optimizer,
            seen=f"the gradients {optimizer} steps on had a root mean square of {sizes[-1]:.3g} at step {step}, "
            f"{last / before:.2g} times their median before ({before:.3g}); that of its weights went from "
            f"{weights[0]:.3g} to {weights[-1]:.3g} (a heuristic)",
            why="each step overshoots further than the one before; it usually ends in NaN or in dead units",
            remedy="lower the learning rate, warm it up, or clip gradients by their norm",
            evidence={
                "optimizer": optimizer,
                "steps": [look.step for look in looks],
                "gradients": [float(f"{size:.4g}") for size in sizes],
                "weights": [float(f"{size:.4g}") for size in weights],
            },
        )


def _size(each: list[float]) -> float:
    """The root mean square of root mean squares."""
    return math.sqrt(sum(value * value for value in each) / max(1, len(each)))
