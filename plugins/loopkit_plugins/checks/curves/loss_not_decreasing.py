"""The training loss does not move."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from loopkit import Confidence, CurveKind, CurveLog, CurveReading, Finding, Run, Severity, hookimpl


class LossNotDecreasing:
    """The training loss is flat, high above what is reached by learning, or the same number again and again.

    What it looks for
        When the run ends, in the training loss that was logged as "train/loss": a curve that has been flat since its
        first half at more than 0.8 of its first value; or, in runs of 200 updates and more, the last eight values or
        more the same to the last bit, which no change of the weights would leave them (thresholds `updates`, `same`).

    Why that hurts
        The model learns nothing, or next to nothing, and the run costs as much as one that does.

    A loop that has it
        for x, y in loader:
            loss = criterion(model(x).detach().requires_grad_(), y)
            loss.backward()
            optimizer.step()
            loopkit.log("train/loss", loss.item())

    The repair
        Try to learn one batch by heart. If that fails, the loop is wrong: look at other findings, at what the
        optimizer was given, and at the labels. If it works, raise the learning rate or use a larger model.

    Left alone
        Runs in which an error was found, which explains it; losses that are zero or below; losses of games and
        policies, which are not called "train/loss"; curves of five points or fewer. A model that was trained before
        may start near its best: a loss that fell a little and stays is only said (info).

    What it costs
        One call a logged number; tensors among them are copied and read 64 at a time. The rest when the run ends.
    """

    rule = "loss-not-decreasing"
    severity = Severity.WARNING
    confidence = Confidence.HEURISTIC
    symptom = True
    thresholds: ClassVar[Mapping[str, float]] = {
        "updates": 200,  # a flat loss over fewer is a trial
        "same": 8,  # values that are the same to the last bit
    }

    @hookimpl
    def metric_logged(self, run: Run, name: str, value: Any, step: int) -> None:
        """Keep it."""
        run.instrument(CurveLog).hear(run, name, value, step)

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Read the curves."""
        log = run.instrument(CurveLog)
        same = log.repeats("train/loss")
        if same >= self.thresholds["same"] and run.steps >= self.thresholds["updates"]:
            value = log.curve("train/loss")[-1][1]
            began = log.curve("train/loss")[-same][0]
            seen = f"the last {same} training losses, since step {began:,.0f}, are all exactly {value:.6g}"
            yield self._finding(log, seen, Severity.WARNING, int(began), {"repeats": same, "value": value})
            return
        for reading in log.of_kind(CurveKind.UNDERFITTING):
            fell = reading.numbers["first"] - reading.numbers["last"] > 2 * reading.numbers["noise"]
            severity = Severity.INFO if fell or run.steps < self.thresholds["updates"] else Severity.WARNING
            yield self._finding(log, reading.seen, severity, int(reading.began or 0), _evidence(reading))

    def _finding(self, log: CurveLog, seen: str, severity: Severity, step: int, evidence: dict[str, Any]) -> Finding:
        return Finding(
            rule=self.rule,
            severity=severity,
            confidence=self.confidence,
            place=log.places.get("train/loss"),
            subject="train/loss",
            seen=seen,
            why="a loss that stays where it began means that nothing is learned, or that the model was at its best",
            remedy="try to learn one batch by heart; if that fails, look for a bug, else raise the rate or the model",
            evidence=evidence,
            step=step,
        )


def _evidence(reading: CurveReading) -> dict[str, Any]:
    return {"kind": str(reading.kind), **reading.numbers}
