"""The model is trained in evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Finding, Modes, Run, Severity, TrainReading, hookimpl


class TrainInEvalMode:
    """Training goes on in the evaluation mode that an evaluation, or a library, has left behind.

    What it looks for
        A backward and a step that train a model whose root is in evaluation mode, with all of its dropouts and batch
        normalisations around trainable parameters. An error where `eval()` was called for an evaluation and `train()`
        was not called since; a warning where a library has called `eval()` (as `from_pretrained` does), or where
        batch normalisations have never seen a batch; else info: it may be meant.

    Why that hurts
        Dropout is off, so the model overfits as if it had none; batch normalisation uses old statistics, or those
        of a new layer, and no longer adapts them. The loss falls all the same.

    A loop that has it
        for epoch in range(10):
            for x, y in loader:
                criterion(model(x), y).backward()
                ...
            model.eval()
            with torch.no_grad():
                validate(model)

    The repair
        Call `model.train()` where training begins: at the start of each epoch, and after each evaluation.

    Left alone
        Parts that are put in evaluation mode while the root is in training mode, such as frozen batch normalisations;
        frozen backbones; dropout of 0; models without such layers; optimized inputs.

    What it costs
        A look at the modules at backwards whose graph is walked: in the first updates and then ever more rarely.
    """

    rule = "train-in-eval-mode"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._last = 0
        self._waiting: list[TrainReading] = []

    @hookimpl
    def mode_changed(self) -> None:
        """Heard so that modes are followed."""

    @hookimpl
    def update_finished(self, run: Run) -> Iterator[Finding]:
        """Judge the backwards that a step has followed."""
        new = run.instrument(Modes).trainings(self._last)
        if new:
            self._last = new[-1].number
            self._waiting += [each for each in new if _is_asleep(each)]
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for reading in waiting:
                if run.steps > reading.steps:
                    yield self._finding(reading)
                else:
                    self._waiting.append(reading)

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Judge the last ones too."""
        yield from self.update_finished(run)

    def _finding(self, reading: TrainReading) -> Finding:
        severity, confidence, how = _judged(reading)
        site = reading.backward or reading.forward
        places = {"forward": reading.forward.place}
        if reading.change is not None:
            places["eval"] = reading.change.site.place
        return Finding(
            rule=self.rule,
            severity=severity,
            confidence=confidence,
            place=site.place,
            places=places,
            subject=reading.model,
            seen=f"{reading.model} is trained in evaluation mode, after {reading.steps} steps: "
            f"{_count(len(reading.asleep))} ({', '.join(reading.asleep[:3])}"
            f"{', …' if len(reading.asleep) > 3 else ''}); {how}",
            why="dropout is off, and batch normalisation uses running statistics that no batch moves any more",
            remedy="call model.train() where training begins, and after each evaluation",
            evidence={
                "model": reading.model,
                "layers": list(reading.asleep[:16]),
                "statistics_of_a_new_layer": reading.blank,
                "eval_frames": [str(place) for place in reading.change.site.chain] if reading.change else [],
                "backward_frames": [str(place) for place in site.chain],
                "framework": str(site.framework) if site.framework else None,
            },
            step=reading.steps + 1,
        )


def _is_asleep(reading: TrainReading) -> bool:
    return reading.owned and not reading.training and bool(reading.asleep) and not reading.awake


def _judged(reading: TrainReading) -> tuple[Severity, Confidence, str]:
    """How much harm it does, how it is known, and what was seen of how it came about."""
    change = reading.change
    if change is None or change.training:
        return Severity.INFO, Confidence.FACT, "nobody called eval() while loopkit watched"
    place = change.site.place
    if change.first == "evaluated":
        return (
            Severity.ERROR,
            Confidence.PROOF,
            f"eval() at {place} was for an evaluation, no train() followed",
        )
    if reading.blank:
        what = f"{reading.blank} batch normalisation{'' if reading.blank == 1 else 's'}"
        return Severity.WARNING, Confidence.PROOF, f"eval() at {place}, though no batch has been seen by {what}"
    if change.site.framework is not None:
        return Severity.WARNING, Confidence.FACT, f"a library called eval() at {place}, and train() did not follow"
    return Severity.INFO, Confidence.FACT, f"eval() at {place} may be meant"


def _count(number: int) -> str:
    return f"{number} layer{'' if number == 1 else 's'} that would do something else in training"
