"""The model is evaluated in training mode."""

from __future__ import annotations

import linecache
import re
from collections.abc import Iterator

from loopkit import Confidence, Finding, ForwardReading, Modes, Place, Run, Severity, hookimpl

_WORDS = re.compile(r"(?:^|[^a-z])(val|valid|validate|validation|eval|evaluate|evaluation|test|holdout)(?:$|[^a-z])")
_LOSS = re.compile(r"val\d*/")
_APART = 4
"""Steps between two evaluations: what comes more often may belong to the training step."""


class EvalInTrainMode:
    """An evaluation runs with dropout active, or with batch normalisation that learns from the evaluation data.

    What it looks for
        A model that an optimizer trains is called without gradients, in training mode, and inside it a dropout drew
        or a batch normalisation changed its running statistics. That it is an evaluation is known from its batches,
        of a loader that never trains; or, as a warning, from a loss that was computed without gradients, or from
        words such as `val` or `test` in the line of the call.

    Why that hurts
        The numbers are noisy and too low: they are those of a thinned-out network, normalised by whatever stands
        in the batch. Running statistics take in the evaluation data, and the best checkpoint is chosen by them.

    A loop that has it
        for x, y in train_loader:
            criterion(model(x), y).backward()
            ...
        with torch.no_grad():
            for x, y in val_loader:
                correct += (model(x).argmax(1) == y).sum()

    The repair
        Call `model.eval()` before the evaluation and `model.train()` after it: `no_grad()` changes no mode.

    Left alone
        Models without layers that depend on their mode; MC-dropout (one input several times, or a model in evaluation
        mode with its dropout awake); `update_bn` and other passes over training data that only gather statistics;
        teachers and averaged models, which no optimizer owns; samples of a generator, rollouts, pseudo-labels and
        cached representations: calls without an evaluation's data that come with each update.

    What it costs
        A look at the modules in the first two calls without gradients of the 1st, 2nd, 4th, 8th … evaluation.
    """

    rule = "eval-in-train-mode"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._last = 0
        self._waiting: list[ForwardReading] = []

    @hookimpl
    def mode_changed(self) -> None:
        """Heard so that modes are followed."""

    @hookimpl
    def update_finished(self, run: Run) -> Iterator[Finding]:
        """Judge the evaluations that are over."""
        yield from self._judge(run, final=False)

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Judge the last one too."""
        yield from self._judge(run, final=True)

    def _judge(self, run: Run, *, final: bool) -> Iterator[Finding]:
        modes = run.instrument(Modes)
        new = modes.forwards(self._last, final=final)
        self._last = max([self._last, *(each.number for each in new)])
        waiting, self._waiting = self._waiting + [each for each in new if _is_active(each)], []
        for reading in waiting:
            if reading.calls == 1 and run.steps - reading.steps < _APART and not final:
                self._waiting.append(reading)  # perhaps its loader begins to train with this batch
            elif not modes.trains_on(reading) and (why := _evidence_for(reading, run)):
                yield self._finding(reading, why)

    def _finding(self, reading: ForwardReading, why: str) -> Finding:
        proven = why == "loader"
        return Finding(
            rule=self.rule,
            severity=Severity.ERROR if proven else Severity.WARNING,
            confidence=Confidence.PROOF if proven else Confidence.HEURISTIC,
            place=reading.site.place,
            subject=reading.model,
            seen=f"{reading.model} was evaluated in training mode, after {reading.steps} steps: "
            f"{_in_words(reading)}; {_KNOWN[why]}",
            why="the numbers are not those of the model that is kept: dropout thins it out, and batch normalisation "
            "uses, and learns from, the batch it is tested on; no_grad() changes no mode",
            remedy="call model.eval() before the evaluation and model.train() after it",
            evidence={
                "model": reading.model,
                "layers": list(reading.awake[:16]),
                "statistics_changed": list(reading.moved[:16]),
                "dropouts_drawn": len(reading.draws),
                "known_by": why,
                "frames": [str(place) for place in reading.site.chain],
                "framework": str(reading.site.framework) if reading.site.framework else None,
            },
            step=reading.steps,
        )


_KNOWN = {
    "loader": "its batches come from a loader that does not train",
    "loss": "that it is an evaluation is a guess, by the loss that was computed without gradients",
    "name": "that it is an evaluation is a guess, by the words of this line",
}


def _is_active(reading: ForwardReading) -> bool:
    """Whether layers of a trained model did what they should in training alone."""
    if not (reading.owned and reading.training and reading.steps):
        return False
    if reading.repeated or reading.recalibrates:
        return False
    return bool(reading.moved or (reading.draws and reading.awake))


def _evidence_for(reading: ForwardReading, run: Run) -> str:
    """How it is known that this is an evaluation; "" where it is not."""
    rare = reading.since >= _APART
    named = _is_named(reading.site.place)
    if reading.fresh and reading.loader and (rare or reading.calls > 1):
        return "" if reading.told and not named and not _has_loss(reading, run) else "loader"
    if rare and _has_loss(reading, run):
        return "loss"
    return "name" if named and reading.optimizers == 1 else ""


def _has_loss(reading: ForwardReading, run: Run) -> bool:
    return any(_LOSS.match(name) and step == reading.steps for name, step in run.logged.items())


def _is_named(place: Place) -> bool:
    line = linecache.getline(place.file, place.line).lower().partition("#")[0].replace("_", " ")
    calls_eval = ".eval(" in line
    function = place.function.rpartition(".")[2].lower().replace("_", " ")
    words = _WORDS.search(line) if not calls_eval else None
    of_function = _WORDS.search(function) and "train" not in function and not function.startswith("test ")
    return bool(words or of_function)


def _in_words(reading: ForwardReading) -> str:
    parts = []
    if reading.draws:
        rates = sorted({draw.p for draw in reading.draws})
        parts.append(f"{_count(len(reading.draws), 'dropout')} drew (p = {', '.join(f'{p:g}' for p in rates[:3])})")
    if reading.moved:
        parts.append(f"the running statistics of {_count(len(reading.moved), 'batch normalisation')} changed")
    return " and ".join(parts)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
