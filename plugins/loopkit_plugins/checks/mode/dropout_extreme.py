"""Dropout with a probability that is rarely meant."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Finding, Modes, Run, Severity, TrainReading, hookimpl

_HALF = 0.5


class DropoutExtreme:
    """A dropout that is trained drops more than half of its input, or all of it.

    What it looks for
        Dropout layers in training mode around trainable parameters, in a model that a step trains: with a probability
        of 1, which lets nothing through, or above 0.5, as where the share to keep was given instead. Both are info.

    Why that hurts
        With a probability of 1 what comes after is trained on zeros, and what comes before gets no gradient. Above
        0.5 most of what a layer computes is thrown away in each step.

    A loop that has it
        keep = 0.9
        model = nn.Sequential(nn.Linear(20, 64), nn.Dropout(keep), nn.Linear(64, 2))

    The repair
        Give the share to drop: `nn.Dropout(1 - keep)`.

    Left alone
        Probabilities up to 0.5; dropouts in evaluation mode; functions, whose probability is not a layer's.

    What it costs
        Nothing beyond the look at the modules in the updates whose graph is walked.
    """

    rule = "dropout-extreme"
    severity = Severity.INFO
    confidence = Confidence.FACT

    def __init__(self) -> None:
        self._last = 0
        self._said: set[str] = set()

    @hookimpl
    def mode_changed(self) -> None:
        """Heard so that modes are followed."""

    @hookimpl
    def update_finished(self, run: Run) -> Iterator[Finding]:
        """Look at the dropouts of what was trained."""
        for reading in run.instrument(Modes).trainings(self._last):
            self._last = reading.number
            extreme = [(name, p) for name, p in reading.dropouts if p > _HALF]
            if reading.owned and extreme and reading.model not in self._said:
                self._said.add(reading.model)
                yield self._finding(reading, extreme)

    def _finding(self, reading: TrainReading, extreme: list[tuple[str, float]]) -> Finding:
        name, p = max(extreme, key=lambda each: each[1])
        others = f", and {len(extreme) - 1} more like it" if len(extreme) > 1 else ""
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=reading.forward.place,
            places={"forward": reading.forward.place},
            subject=reading.model,
            seen=f"{name} drops {p:.0%} of its input in training (p = {p:g}){others}",
            why="it lets nothing through: what comes after is trained on zeros"
            if p == 1
            else "most of what the layer before it computes is thrown away in each step",
            remedy="nn.Dropout takes the share to drop, not the share to keep",
            evidence={"layers": dict(extreme[:16]), "model": reading.model},
            step=reading.steps,
        )
