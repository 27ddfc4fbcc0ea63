"""The input is of a scale the model cannot use, or the same for every sample."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from loopkit import (
    BatchReading,
    Confidence,
    Criteria,
    CriterionReading,
    DoorReading,
    Finding,
    Run,
    Severity,
    Update,
    hookimpl,
)

_LARGE = 10.0
"""The size of an input beyond which it is not standardised."""
_TIMES, _MORE = 3.0, 2.0
"""How many times the loss of a guess the first loss must be, and by how much more."""
_READINGS = 3
"""Batches of identical samples that are wanted."""
_ROWS = 4
"""Samples in each of them."""
_UNEVEN = 2
"""Batches with one row of tokens that are wanted."""
_SHARED = ("position", "type")
"""Parts of names of what one row may stand for."""


class InputSuspicious:
    """Inputs are so large that the first loss is far from a guess, or all samples of a batch are one.

    What it looks for
        In the first update, an input of the model beyond 10 in size (pixels from 0 to 255, raw columns of a table),
        while the first loss of a classifier (cross-entropy, binary cross-entropy) is three times that of a guess or
        more. Or a model given one tensor of floats in which all samples of the batch are the same, in three batches.
        Or a loader whose batches hold one row of tokens beside several samples of all else, in two batches: info.

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
        given other tensors beside, such as graphs. Masks and positions, of which one row stands for all; a sequence
        with many patches, whose labels are one row too.

    What it costs
        Extremes of the first tensor that the model is given, in the updates whose graphs are walked.
    """

    rule = "input-suspicious"
    severity = Severity.WARNING
    confidence = Confidence.HEURISTIC

    def __init__(self) -> None:
        self._same = 0
        self._uneven = 0

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> Iterator[Finding]:
        """Judge the first update by its loss, and count batches of identical samples."""
        seen = run.instrument(Criteria).of(update)
        for batch in _batches(seen.batches):
            pair = _one_row(batch)
            self._uneven = self._uneven + 1 if pair is not None else 0
            if pair is not None and self._uneven == _UNEVEN and seen.doors:
                yield self._row(seen.doors[0], *pair)
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

    def _row(self, door: DoorReading, tokens: BatchReading, other: BatchReading) -> Finding:
        return self._finding(
            door,
            Confidence.FACT,
            severity=Severity.INFO,
            seen=f"the batches of the loader hold {tokens.shape[0]} row of {_plain(tokens.name)} beside "
            f"{other.shape[0]:,} of {_plain(other.name)}",
            why="if each sample should have a row, all are trained with the same one, or most are left out",
            remedy="give the processor, or collate_fn, a list with a text for each sample",
            evidence={"rows": tokens.shape[0], "samples": other.shape[0]},
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
        severity: Severity = Severity.WARNING,
    ) -> Finding:
        return Finding(
            rule=self.rule,
            severity=severity,
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


def _batches(readings: Iterable[BatchReading]) -> list[list[BatchReading]]:
    """The tensors of each batch: a name that comes again begins another one."""
    found: list[list[BatchReading]] = []
    for each in readings:
        if not found or any(each.name == other.name for other in found[-1]):
            found.append([])
        found[-1].append(each)
    return found


def _one_row(batch: list[BatchReading]) -> tuple[BatchReading, BatchReading] | None:
    """The tokens of a batch that are one row, and something else of it, where all else is of several samples."""
    ids = [each for each in batch if "ids" in each.name and not any(word in each.name for word in _SHARED)]
    others = [each for each in batch if each not in ids and "mask" not in each.name and "_ids" not in each.name]
    sizes = {each.shape[:1] for each in others}
    if len(ids) != 1 or ids[0].shape[:1] != (1,) or len(ids[0].shape) != 2 or len(sizes) != 1:
        return None
    return (ids[0], others[0]) if others[0].shape and others[0].shape[0] >= _ROWS else None


def _plain(name: str) -> str:
    return name.strip("[]'")
