"""The loss runs away or jumps about."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from loopkit import Confidence, CurveKind, CurveLog, CurveReading, Finding, Run, Severity, hookimpl


class LossUnstable:
    """The training loss runs away, ends in NaN, or jumps so much that no trend is left.

    What it looks for
        When the run ends, in what was logged as "train/loss" (and "val/loss", for jumps): values that are not finite
        up to the end; an end that has risen by half of what the loss had fallen and by a quarter of its lowest value,
        and stays there; noise, beyond that of medians over sixtieths of the run, of a fifth of the level and of the
        fall.

    Why that hurts
        The last weights are worse than earlier ones; or, where the loss jumps, which ones one gets is chance.

    A loop that has it
        optimizer = SGD(model.parameters(), lr=10.0)

    The repair
        Lower the learning rate, warm it up, clip gradients, use larger batches; look at the batches at that step.

    Left alone
        Spikes that recover; warm restarts, as far as "train/lr" shows them; a rise that falls again at the end; noise
        of single batches, which the medians take away; curves of few points; losses of games and policies, which are
        not called "train/loss". Jumps alone are only said (info).

    What it costs
        One call a logged number; tensors among them are copied and read 64 at a time. The rest when the run ends.
    """

    rule = "loss-unstable"
    severity = Severity.WARNING
    confidence = Confidence.HEURISTIC
    symptom = True

    @hookimpl
    def metric_logged(self, run: Run, name: str, value: Any, step: int) -> None:
        """Keep it."""
        run.instrument(CurveLog).hear(run, name, value, step)

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Read the curves."""
        log = run.instrument(CurveLog)
        for reading in log.of_kind(CurveKind.DIVERGING, CurveKind.ERRATIC):
            yield self._finding(log, reading)

    def _finding(self, log: CurveLog, reading: CurveReading) -> Finding:
        away = reading.kind is CurveKind.DIVERGING
        return Finding(
            rule=self.rule,
            severity=Severity.WARNING if away and reading.curve == "training" else Severity.INFO,
            confidence=self.confidence,
            place=log.place(reading),
            subject=reading.curve,
            seen=reading.seen,
            why="the last weights are worse than earlier ones" if away else "which weights one ends with is chance",
            remedy=reading.remedy,
            evidence={"kind": str(reading.kind), **reading.numbers},
            step=None if reading.began is None else int(reading.began),
        )
