"""Predictions do not depend on the input."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from loopkit import Confidence, Criteria, CriterionReading, Finding, Run, Seen, Severity, Site, Update, hookimpl

_READINGS = 3
"""Batches in a row, the last ones looked at, in which all predictions were the same."""
_LATE = 8
"""The update from which on they count: a head that begins at zero has left it by then."""
_ROWS = 4
"""Predictions in a batch."""
_SAME = 1e-6
"""By how much they may differ, as a share of the largest."""


@dataclass
class _Outputs:
    site: Site
    kind: str
    same: int = 0
    rows: int = 0
    first: int = 0
    value: float = 0.0


class OutputCollapse:
    """The model gives the same output whatever it is given.

    What it looks for
        Losses whose input is one and the same row for every sample of a batch, to the sixth digit, while the targets
        differ: in the last three batches looked at, or more, none of them among the first seven updates.

    Why that hurts
        What is learned is the mean of the targets. All units of a layer are dead (ReLU after too high a rate), the
        input is constant, or something before the head throws it away.

    A loop that has it
        optimizer = SGD(model.parameters(), lr=50.0)        # after one step every ReLU is 0 for every input

    The repair
        Lower the learning rate, look at the input and at the activations of the first layers, initialise anew; use
        leaky activations.

    Left alone
        The first updates, and heads that begin at zero; batches whose targets are all the same; batches of fewer than
        four; predictions that differ, however little beyond that.

    What it costs
        Extremes over a batch of outputs in the updates whose graphs are walked.
    """

    rule = "output-collapse"
    severity = Severity.WARNING
    confidence = Confidence.FACT

    def __init__(self) -> None:
        self._outputs: dict[int, _Outputs] = {}

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> None:
        """Keep for each line that calls a loss how often in a row its inputs were all the same."""
        self._keep(run.instrument(Criteria).of(update))

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Say what still holds."""
        self._keep(run.instrument(Criteria).of(None))
        for outputs in self._outputs.values():
            if outputs.same >= _READINGS:
                yield self._finding(outputs)

    def _keep(self, seen: Seen) -> None:
        for call in seen.calls:
            if call.update >= _LATE and call.shape and call.shape[0] >= _ROWS and _varies(call):
                outputs = self._outputs.setdefault(call.site.spot, _Outputs(call.site, call.kind))
                if _is_same(call):
                    outputs.first = outputs.first if outputs.same else call.update
                    outputs.same += 1
                    outputs.rows += call.shape[0]
                    outputs.value = call.numbers["in_high"]
                else:
                    outputs.same = outputs.rows = 0

    def _finding(self, outputs: _Outputs) -> Finding:
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=outputs.site.place,
            seen=f"since update {outputs.first} the {outputs.rows:,} predictions given to {outputs.kind} in the "
            f"{outputs.same} batches looked at were the same for every sample of a batch, though targets differ",
            why="the model ignores its input and can learn no more than the mean of the targets",
            remedy="look at the input and the first layers' activations: dead units (lower the rate, initialise "
            "anew), or a constant input",
            evidence={
                "batches": outputs.same,
                "predictions": outputs.rows,
                "first_update": outputs.first,
                "largest": outputs.value,
                "loss": outputs.kind,
            },
            step=outputs.first,
        )


def _varies(call: CriterionReading) -> bool:
    """Whether targets differ."""
    return "low" in call.numbers and call.numbers["low"] < call.numbers["high"]


def _is_same(call: CriterionReading) -> bool:
    numbers = call.numbers
    largest = max(abs(numbers["in_low"]), abs(numbers["in_high"]))
    return numbers["moves"] <= _SAME * largest and largest < float("inf")
