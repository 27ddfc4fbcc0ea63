"""The labels of the training data are all the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from loopkit import (
    BatchReading,
    Confidence,
    Criteria,
    CriterionReading,
    Finding,
    Run,
    Seen,
    Severity,
    Site,
    Update,
    hookimpl,
)

_READINGS = 3
"""Batches that must have been looked at when the run ends."""
_TARGETS = 64
"""Targets in them."""
_UPDATES = 64
"""The update from which on a longer run is judged before its end: data may be in order of their labels."""


@dataclass
class _Labels:
    """What was seen of the targets at one call of a loss."""

    site: Site
    kind: str
    value: float
    name: str
    readings: int = 0
    targets: int = 0
    varies: bool = False
    whole: bool = False
    framework: list[str] = field(default_factory=list)


class LabelsDegenerate:
    """All labels that were looked at are one class, or one number, and came so from the loader.

    What it looks for
        Losses whose targets are one value in every batch looked at, over the whole run (or its first 64 updates),
        where a tensor of as many elements in the loader's batch is that value too.

    Why that hurts
        There is nothing to learn but a constant: the loss falls quickly, and the model ignores its input. It comes
        from a wrong column, a filter that left one class, or numbers that became integers: 0.7 is 0 in a LongTensor.

    A loop that has it
        def collate(rows):
            return torch.stack([r.x for r in rows]), torch.tensor([r.score for r in rows], dtype=torch.long)

    The repair
        Print the labels of one batch. Give numbers a float dtype (`torch.float32`), look at the column, the filter
        and the split.

    Left alone
        Constant targets that the loop makes itself (real and fake, zero residuals, the first of a contrastive row);
        losses of one kind whose constants differ from call to call, as for two domains; runs of fewer than three
        batches looked at; batches that come from no loader.

    What it costs
        Extremes of the targets and of the batch in the first four updates, in new shapes of update, and then ever
        more rarely.
    """

    rule = "labels-degenerate"
    severity = Severity.WARNING
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._labels: dict[int, _Labels] = {}
        self._said: set[int] = set()

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> Iterator[Finding]:
        """Keep what the targets of each loss are."""
        self._keep(run.instrument(Criteria).of(update))
        if update.updates >= _UPDATES:
            yield from self._judged()

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Judge a run that was short."""
        self._keep(run.instrument(Criteria).of(None))
        yield from self._judged()

    def _keep(self, seen: Seen) -> None:
        for call in seen.calls:
            self._add(call, seen.batches)

    def _add(self, call: CriterionReading, batches: tuple[BatchReading, ...]) -> None:
        numbers = call.numbers
        if "low" not in numbers or not numbers.get("counted", 1):
            return
        value = numbers["low"]
        labels = self._labels.get(call.site.spot)
        if labels is None:
            labels = self._labels[call.site.spot] = _Labels(call.site, call.kind, value, "")
        source = next((each for each in batches if _is_source(each, call)), None)
        labels.varies |= value != numbers["high"] or value != labels.value or source is None
        labels.readings += 1
        labels.targets += int(numbers["counted"]) if "counted" in numbers else _elements(call.target_shape)
        labels.name = source.name if source is not None else labels.name
        labels.whole = "part" in numbers and not numbers["part"]

    def _judged(self) -> Iterator[Finding]:
        for spot, labels in self._labels.items():
            if spot in self._said or labels.varies or labels.readings < _READINGS or labels.targets < _TARGETS:
                continue
            alike = [each for each in self._labels.values() if each.kind == labels.kind]
            if all(each.varies or each.value == labels.value for each in alike):
                self._said.add(spot)
                yield self._finding(labels)

    def _finding(self, labels: _Labels) -> Finding:
        number = labels.whole
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=labels.site.place,
            seen=f"all {labels.targets:,} targets of {labels.kind} in {labels.readings} batches looked at are "
            f"{labels.value:g}, as the loader gives them (batch{labels.name})",
            why="constant labels teach a constant: the loss falls, and the model learns to ignore its input",
            remedy="print the labels of one batch; numbers need a float dtype (an integer tensor cuts 0.7 to 0)"
            if number
            else "print the labels of one batch: look at the column, the filter and the split they come from",
            evidence={
                "value": labels.value,
                "targets": labels.targets,
                "batches": labels.readings,
                "loss": labels.kind,
                "batch_tensor": labels.name,
            },
        )


def _is_source(batch: BatchReading, call: CriterionReading) -> bool:
    """Whether this tensor of a batch is what the targets were made of."""
    numbers = batch.numbers
    same = numbers["low"] == numbers["high"] == call.numbers["low"]
    return same and 0 <= call.update - batch.update <= 1 and _elements(batch.shape) == _elements(call.target_shape)


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
