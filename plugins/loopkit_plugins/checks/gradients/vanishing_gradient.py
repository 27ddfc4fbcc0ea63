"""The first layers get gradients that do not move them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median
from typing import ClassVar

from loopkit import Confidence, Finding, Models, Move, Moves, Place, Run, Severity, StepMoves, Update, hookimpl


class VanishingGradient:
    """The gradients of a model's first layers are negligible beside those of its last: its front does not move.

    What it looks for
        A heuristic. The gradients of weight matrices, each divided by the size of its weights, in the order in which
        the optimizer has them: at every look from the 8th step on, three at least and the last at the 64th or later,
        those of the first third are ten thousand times smaller than those of the last, and the steps change their
        weights by less than a ten millionth.

    Why that hurts
        The front of the network stays as it was initialized, and the rest learns from what it happens to compute.

    A loop that has it
        model = Sequential(*[Sequential(Linear(64, 64), Sigmoid()) for _ in range(20)], Linear(64, 10))
        optimizer = SGD(model.parameters(), lr=0.1)

    The repair
        Normalization, residual connections, another activation (ReLU, GELU) with the initialization that suits it.

    Left alone
        Optimizers that divide by the size of the gradient (Adam), as long as they move the weights; gradients that
        are 0 (an adapter at first, a branch that begins at 0); frozen layers; models of fewer than six matrices;
        small gradients everywhere, as at the end of training. Any error of this run explains it: it is not shown.

    What it costs
        Nothing of its own: what steps do to a few weights is looked at where graphs are walked.
    """

    rule = "vanishing-gradient"
    severity = Severity.WARNING
    confidence = Confidence.HEURISTIC
    symptom = True
    thresholds: ClassVar[Mapping[str, float]] = {
        "times": 1e4,  # the first third's gradients are this much smaller than the last third's
        "change": 1e-7,  # of the weights, in one step
        "updates": 64,
    }

    def __init__(self) -> None:
        self._told: set[int] = set()

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> Iterator[Finding]:
        """Look, at the 64th, 128th, 256th … occurrence of an update, while the model's layers have their names."""
        for event, step in update.steps():
            if step.steps < self.thresholds["updates"] or step.number in self._told or event.site is None:
                continue
            every = run.instrument(Moves).of_steps()
            looks = [look for look in every if look.number == step.number and look.step >= 8]
            if len(looks) < 3 or looks[-1].step < self.thresholds["updates"]:
                continue
            judged = [self._judge(look) for look in looks]
            if all(each is not None for each in judged) and judged[-1] is not None:
                self._told.add(step.number)
                yield self._finding(run, event.site.place, looks[-1], judged[-1])

    def _judge(self, look: StepMoves) -> tuple[Move, float, float] | None:
        """The first layer, and the relative gradients of front and back, where the front does not move."""
        layers = [move for move in look.moves if move.dims > 1 and move.weight > 0]
        third = len(layers) // 3
        if third < 2:
            return None
        front, back = layers[:third], layers[-third:]
        least, most = median(move.grad / move.weight for move in back), max(move.grad / move.weight for move in front)
        still = all(move.change <= self.thresholds["change"] * move.weight for move in front)
        fed = all(move.grad > 0 for move in front)
        return (front[0], most, least) if still and fed and most * self.thresholds["times"] <= least else None

    def _finding(self, run: Run, place: Place, look: StepMoves, judged: tuple[Move, float, float]) -> Finding:
        first, front, back = judged
        parameter = first.parameter()
        spots = run.instrument(Models).parameters() if parameter is not None else {}
        spot = spots.get(id(parameter))
        name = spot.name if spot is not None else f"parameter {first.index + 1} of {look.optimizer}"
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=place,
            places={"step": place},
            subject=look.optimizer,
            seen=f"after {look.step} steps the gradients of the first layers, {name} and on, are {front:.2g} of "
            f"their weights at most, those of the last {back:.2g}: {back / front:.1g} times as much (a heuristic)",
            why="one step changes the first layers by less than a ten millionth: they stay as they were initialized",
            remedy="add normalization or residual connections, or use another activation and initialization",
            evidence={"optimizer": look.optimizer, "step": look.step, "front": front, "back": back, "first": name},
            step=look.step,
        )
