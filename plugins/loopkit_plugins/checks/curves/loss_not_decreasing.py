"""The training loss does not move."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from loopkit import (
    AtChance,
    Confidence,
    CurveKind,
    CurveLog,
    CurveReading,
    Feeds,
    Finding,
    Levels,
    Run,
    Severity,
    at_chance,
    hookimpl,
)


class LossNotDecreasing:
    """The training loss is flat, high above what is reached by learning, or the same number again and again.

    What it looks for
        When the run ends, in the training loss that was logged as "train/loss": a curve that has been flat since its
        first half at more than 0.8 of its first value; or, in runs of 200 updates and more, the last eight values or
        more the same to the last bit, which no change of the weights would leave them (thresholds `updates`, `same`).

        Whether or not it is logged: a cross-entropy or squared error that, in the second half of a run of 50 updates
        and two epochs or more, is what a model would lose that knows how frequent each class is, or the mean of the
        targets, and does not look at its input. Both are taken from the same batches, so they can be compared
        closely: a loss lower by two hundredths is left alone.

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
        may start near its best: a loss that fell a little and stays is only said (info). At the chance level: one
        that falls, or is far above it; runs of several optimizers; losses of several terms, with class weights or
        smoothed labels; tokens of sequences, which are learned by frequency first; targets that are all alike.

    What it costs
        One call a logged number; tensors among them are copied and read 64 at a time. Of 16 to 32 losses of the
        run, a copy and the number of targets of each class, on the device. The rest when the run ends.
    """

    rule = "loss-not-decreasing"
    severity = Severity.WARNING
    confidence = Confidence.HEURISTIC
    symptom = True
    thresholds: ClassVar[Mapping[str, float]] = {
        "updates": 200,  # a flat loss over fewer is a trial
        "same": 8,  # values that are the same to the last bit
        "chance_updates": 50,  # at the chance level for fewer, it has hardly begun to learn
        "chance_share": 0.02,  # below the chance level by this share, something is learned
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
        levels = run.instrument(Levels)
        if self._lasted(run) and levels.alone:
            found = at_chance(levels.read(), run.history.updates, self.thresholds["chance_share"])
            if found is not None:
                yield self._chance(found, levels)
                return
        for reading in log.of_kind(CurveKind.UNDERFITTING):
            fell = reading.numbers["first"] - reading.numbers["last"] > 2 * reading.numbers["noise"]
            severity = Severity.INFO if fell or run.steps < self.thresholds["updates"] else Severity.WARNING
            yield self._finding(log, reading.seen, severity, int(reading.began or 0), _evidence(reading))

    def _lasted(self, run: Run) -> bool:
        """Whether there was time to learn: some updates, and a second pass over the data where passes are seen."""
        updates = run.history.updates
        feeds = run.instrument(Feeds)
        return updates >= self.thresholds["chance_updates"] and (feeds.trainings > 1 or not feeds.begun)

    def _chance(self, found: AtChance, levels: Levels) -> Finding:
        place = levels.site.place if levels.site is not None else None
        knows = "the mean of the targets" if found.kind == "MseLoss" else "how frequent each class is"
        return Finding(
            rule=self.rule,
            severity=Severity.WARNING,
            confidence=self.confidence,
            place=place,
            subject="chance",
            seen=f"the training loss stays at chance level: since update {found.since} it is {found.loss:.4g} on "
            f"average, and a model that knows {knows} and does not look at its input would lose {found.chance:.4g}",
            why="nothing of the relation between inputs and targets is learned",
            remedy="check that inputs and targets belong together (shuffled apart?), that the model can represent "
            "the task (nonlinearities, size), and that it can learn one batch by heart; then the learning rate",
            evidence={"loss": found.loss, "chance": found.chance, "since": found.since, "samples": found.samples},
        )

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
