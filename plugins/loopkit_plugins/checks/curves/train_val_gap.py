"""Validation goes another way than training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from loopkit import (
    Confidence,
    CurveKind,
    CurveLog,
    CurveReading,
    Finding,
    Levels,
    Run,
    Severity,
    hookimpl,
    read_curves,
)


class TrainValGap:
    """The validation loss rises while training goes on falling, or is too low to be true.

    What it looks for
        When the run ends, in what was logged as "train/loss" and "val/loss" (five evaluations at least; of training,
        where nothing was logged, losses that were sampled as they were sent backward): validation
        has been above its minimum, clearly beyond its noise, for three evaluations or more and ends a tenth above it,
        while the training loss went on falling. Or every validation loss is below a tenth of the training loss about
        it.

    Why that hurts
        What is learned since the minimum is the training data by heart: the last weights are worse than those of that
        step. A validation loss far below training's is averaged otherwise, or computed on data that was trained on.

    A loop that has it
        for epoch in range(200):
            loopkit.log("train/loss", train_one_epoch(model, small_set))
            loopkit.log("val/loss", evaluate(model))

    The repair
        Keep the weights of the best step (early stopping); more data, augmentation, weight decay, dropout. Or compare
        how both losses are averaged, and look for training data in validation.

    Left alone
        A validation loss below training's by less than ten times, which dropout, augmentation and label smoothing
        make; one that stays level above training's; a rise that may be noise. A rise of less than half, or in fewer
        than six evaluations (thresholds `rise`, `evaluations`), is only said (info), as is a loss that is too low.

    What it costs
        One call a logged number; tensors among them are copied and read 64 at a time. The rest when the run ends.
    """

    rule = "train-val-gap"
    severity = Severity.WARNING
    confidence = Confidence.HEURISTIC
    symptom = True
    thresholds: ClassVar[Mapping[str, float]] = {
        "rise": 1.5,  # times its lowest value, from which on a rise of the validation loss is more than a remark
        "evaluations": 6,
    }

    @hookimpl
    def metric_logged(self, run: Run, name: str, value: Any, step: int) -> None:
        """Keep it."""
        run.instrument(CurveLog).hear(run, name, value, step)

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Read the curves; for a training loss that was not logged stand the losses that were sampled."""
        log = run.instrument(CurveLog)
        readings = log.of_kind(CurveKind.OVERFITTING, CurveKind.TOO_LOW)
        if not log.curve("train/loss"):
            levels = run.instrument(Levels)
            losses = levels.read() if levels.alone and not log.since else []
            sampled = [(float(each.update), each.loss) for each in losses]
            held_out = log.curve("val/loss")
            readings = read_curves(sampled, held_out) if sampled and held_out else []
            readings = [each for each in readings if each.kind is CurveKind.OVERFITTING]
        for reading in readings:
            yield self._finding(log, reading)

    def _finding(self, log: CurveLog, reading: CurveReading) -> Finding:
        numbers = reading.numbers
        overfits = reading.kind is CurveKind.OVERFITTING
        much = overfits and numbers["points"] >= self.thresholds["evaluations"]
        much = much and numbers["last"] >= self.thresholds["rise"] * abs(numbers["best"])
        return Finding(
            rule=self.rule,
            severity=Severity.WARNING if much else Severity.INFO,
            confidence=self.confidence,
            place=log.place(reading),
            subject="val/loss",
            seen=reading.seen,
            why=(
                "since then the model learns its training data by heart: its last weights are worse than its best"
                if overfits
                else "it is averaged otherwise than training's, or computed on data that was trained on"
            ),
            remedy=reading.remedy,
            evidence={"kind": str(reading.kind), **numbers},
            step=None if reading.began is None else int(reading.began),
        )
