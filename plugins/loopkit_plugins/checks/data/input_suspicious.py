"""The input is of a scale the model cannot use, or the same for every sample."""

from __future__ import annotations

import math
from collections.abc import Iterator

from loopkit import Confidence, Criteria, CriterionReading, DoorReading, Finding, Run, Severity, Update, hookimpl

_LARGE = 10.0
"""The size of an input beyond which it is not standardised."""
_TIMES, _MORE = 3.0, 2.0
"""How many times the loss of a guess the first loss must be, and by how much more."""
_READINGS = 3
"""Batches of identical samples that are wanted."""
_ROWS = 4
"""Samples in each of them."""


class InputSuspicious:
    """Inputs are so large that the first loss is far from a guess, or all samples of a batch are one.

    What it looks for
        In the first update, an input of the model beyond 10 in size (pixels from 0 to 255, raw columns of a table),
        while the first loss of a classifier (cross-entropy, binary cross-entropy) is three times that of a guess or
        more. Or a model given one tensor of floats in which all samples of the batch are the same, in three batches.

    Why that hurts
        The first steps only shrink weights that large inputs have made too loud, single large columns drown the
        others, and the rate that is right for them is too low for all else. From samples that are all the same a
        model can learn a constant.

    A loop that has it
        images = batch["image"].float()                 # 0 … 255
        loss = criterion(cnn(images), labels)

    The repair
        Scale inputs once, in the dataset: `images / 255`, mean and deviation of the training data (or of the
        pretrained weights) for each channel or column. For identical samples look at the dataset and at broadcasting.

    Left alone
        Large inputs with which the model copes (it normalises them, or was trained on them): the first loss is then
        about a guess; tokens and other integers; regressions, whose first loss has no reference; models that are
        given other tensors beside, such as graphs.

    What it costs
        Extremes of the first tensor that the model is given, in the updates whose graphs are walked.
    """

    rule = "input-suspicious"
    severity = Severity.WARNING
    confidence = Confidence.HEURISTIC

    def __init__(self) -> None:
        self._same = 0

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> Iterator[Finding]:
        """Judge the first update by its loss, and count batches of identical samples."""
        seen = run.instrument(Criteria).of(update)
        for door in seen.doors:
            if "moves" not in door.numbers:
                continue
            first = next((call for call in seen.calls if call.update == door.update == 1), None)
            if first is not None and _is_loud(door, first):
                yield self._loud(door, first)
            if door.tensors == 1 and door.shape and door.shape[0] >= _ROWS:
                self._same = self._same + 1 if not door.numbers["moves"] else 0
                if self._same >= _READINGS:
                    yield self._identical(door)

    def _loud(self, door: DoorReading, call: CriterionReading) -> Finding:
        low, high, guess = door.numbers["in_low"], door.numbers["in_high"], _guess(call)
        return self._finding(
            door,
            self.confidence,
            seen=f"the input of {door.model} lies between {low:.4g} and {high:.4g}, and its first loss is "
            f"{call.numbers['loss']:.4g}, where a guess has {guess:.3g}",
            why="inputs that are not standardised make the first scores large and wrong: training begins by "
            "shrinking weights, and small columns or channels are drowned",
            remedy="scale the input once, in the dataset: pixels by 255, columns by the mean and deviation of the "
            "training data",
            evidence={"low": low, "high": high, "loss": call.numbers["loss"], "guess": guess},
        )

    def _identical(self, door: DoorReading) -> Finding:
        return self._finding(
            door,
            Confidence.FACT,
            seen=f"all {door.shape[0]:,} samples given to {door.model} at once were the same, in the last "
            f"{self._same} batches looked at",
            why="from samples that are all the same a model can learn a constant",
            remedy="look at what the dataset returns for two indices, and at expand or broadcasting on the way",
            evidence={"batches": self._same, "samples": door.shape[0]},
        )

    def _finding(
        self,
        door: DoorReading,
        confidence: Confidence,
        *,
        seen: str,
        why: str,
        remedy: str,
        evidence: dict[str, float],
    ) -> Finding:
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=confidence,
            place=door.site.place,
            subject=door.model,
            seen=seen,
            why=why,
            remedy=remedy,
            evidence={**evidence, "framework": str(door.site.framework) if door.site.framework else None},
        )


def _is_loud(door: DoorReading, call: CriterionReading) -> bool:
    guess, loss = _guess(call), call.numbers["loss"]
    large = max(abs(door.numbers["in_low"]), abs(door.numbers["in_high"])) > _LARGE
    return large and guess > 0 and loss >= _TIMES * guess and loss >= guess + _MORE


def _guess(call: CriterionReading) -> float:
    """The loss of a guess; 0 where it is not known."""
    if call.reduction == "sum" or call.weighted:
        return 0.0
    if call.kind == "binary_cross_entropy_with_logits":
        return math.log(2)
    return math.log(call.classes) if call.kind == "cross_entropy" and call.classes > 1 else 0.0
