"""A teacher or reference model is used in training mode."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Finding, ForwardReading, Modes, Run, Severity, hookimpl

_LOOKS = 3


class ReferenceModelInTrainMode:
    """A model that nobody trains gives targets, features or rewards with its dropout on.

    What it looks for
        A model of which no optimizer holds a parameter, and whose parameters keep their values, is called without
        gradients between updates, in training mode that nobody asked for on it by name, and inside it a dropout drew
        or a batch normalisation changed its statistics; in three looks at least.

    Why that hurts
        Each target is that of another, thinned-out network: distillation, KL penalties and rewards are noisy, and
        worse than the model they come from.

    A loop that has it
        teacher = build_model()
        teacher.load_state_dict(torch.load("teacher.pt"))
        for x in loader:
            with torch.no_grad():
                target = teacher(x)
            loss = kl(student(x), target)

    The repair
        Call `teacher.eval()` once; where the teacher is a part of a module that is put in training mode, do so after
        each `train()`.

    Left alone
        Mean teachers and target networks, whose parameters move; models on which `train()` was called by name (noisy
        teachers); one input several times (an estimate by Monte Carlo); models without such layers.

    What it costs
        A look at the modules in the first two calls of the 1st, 2nd, 4th, 8th … update, and a sum of four parameters.
    """

    rule = "reference-model-in-train-mode"
    severity = Severity.WARNING
    confidence = Confidence.FACT

    def __init__(self) -> None:
        self._last = 0

    @hookimpl
    def mode_changed(self) -> None:
        """Heard so that modes are followed."""

    @hookimpl
    def update_finished(self, run: Run) -> Iterator[Finding]:
        """Judge the calls that an update has followed."""
        yield from self._judge(run, final=False)

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Judge the last ones too."""
        yield from self._judge(run, final=True)

    def _judge(self, run: Run, *, final: bool) -> Iterator[Finding]:
        for reading in run.instrument(Modes).forwards(self._last, final=final):
            self._last = max(self._last, reading.number)
            if reading.owned or reading.ever_told or reading.repeated or not reading.steps:
                continue
            active = reading.moved or (reading.draws and reading.awake)
            if active and reading.static and reading.looks >= _LOOKS and not reading.recalibrates:
                yield self._finding(reading)

    def _finding(self, reading: ForwardReading) -> Finding:
        what = ["dropout drew"] if reading.draws else []
        if reading.moved:
            what.append(f"the statistics of {len(reading.moved)} layers changed")
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=reading.site.place,
            places={"forward": reading.site.place},
            subject=reading.model,
            seen=f"{reading.model}, which no optimizer trains and whose parameters keep their values, is called "
            f"without gradients in training mode: {' and '.join(what)}",
            why="what it gives is random, and worse than what the model knows",
            remedy=f"call eval() on this {reading.model} once, and again after any train() that reaches it",
            evidence={
                "model": reading.model,
                "layers": list(reading.awake[:16]),
                "looks": reading.looks,
                "frames": [str(place) for place in reading.site.chain],
                "framework": str(reading.site.framework) if reading.site.framework else None,
            },
            step=reading.steps,
        )
