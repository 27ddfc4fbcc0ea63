"""Steps change the weights by far too much, or by far too little."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, median
from typing import ClassVar

from loopkit import (
    Confidence,
    Finding,
    Ledger,
    Level,
    Levels,
    Move,
    Moves,
    Place,
    Run,
    Severity,
    StepMoves,
    Update,
    hookimpl,
)

_USUAL = 1e-3
_FEWEST = 8  # sampled losses
_LEARNED = 0.05  # a loss lower by less than this share, beside chance, has learned nothing
_FALLS = 0.9  # of its first value: a loss that ends below has fallen
_STILL = 0.01  # of the weights: what all steps together may change at most where they stay as they were
_RISING = 1.5  # a rate that grew by more, or is less than so much of its full size, is that of a warm-up
_EXPLODED = 1000.0  # gradients that grew by more are told of by `exploding-gradient`
_DTYPES = ("float32", "float64")
_SMALLEST = 1e-6  # weights below are those of a layer that began at zero


class UpdateRatioAbnormal:
    """One step changes the weight matrices by a tenth of their size, or by a millionth, and the loss shows it.

    What it looks for
        A heuristic. The change of one step beside the weights, both as root mean squares over samples of the weight
        matrices, measured at the 1st, 2nd, 4th, 8th … step. Too large: the first step changes the median matrix by
        more than its whole size, or the median of the steps from the 8th on by more than a tenth, and the loss does
        not fall. Too small: every look at every matrix shows less than a millionth, so little that all steps of the
        run together come to less than a hundredth, and the loss is what a guess would lose, or more; info where that
        is not known.

        The ratio is usually near a thousandth (A. Karpathy, "makemore", part 3); between 1e-4 and 1e-1 it passes in
        TheDeepChecker (Ben Braiek and Khomh, 2023); SageMaker Debugger's WeightUpdateRatio speaks above 10 and below
        1e-8. It is measured from the weights: rate times gradient is not what Adam does.

    Why that hurts
        Weights that are replaced every ten steps hold nothing of what was learned; those that change by a millionth
        need a million steps to be others.

    A loop that has it
        optimizer = torch.optim.Adam(model.parameters(), lr=1.0)

    The repair
        Change the learning rate by the factor that is told, or look for a loss that is summed, or scaled twice.

    Left alone
        Losses that fall, however large the steps are; warm-up and the end of a decay; weights in half precision, of
        which `update-below-ulp` tells; biases and gains, embeddings of which a few rows are used, layers that began
        at zero (LoRA's B); fine-tuning, whose loss is below chance; several optimizers; gradients that grow without
        bounds, of which `exploding-gradient` tells. Any error explains it.

    What it costs
        Nothing of its own: what steps do to a few weights is looked at where graphs are walked.
    """

    rule = "update-ratio-abnormal"
    severity = Severity.WARNING
    confidence = Confidence.HEURISTIC
    symptom = True
    thresholds: ClassVar[Mapping[str, float]] = {
        "first": 1.0,  # of the weights, in the first step
        "large": 0.1,  # of the weights, in later ones
        "small": 1e-6,
        "updates": 64,  # of fewer steps nothing is said
    }

    def __init__(self) -> None:
        self._places: dict[int, Place] = {}

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> None:
        """Note where the optimizer was made."""
        for event, step in update.steps():
            if step.number not in self._places:
                owner = run.instrument(Ledger).numbered(step.number)
                site = owner.made if owner is not None and owner.made is not None else event.site
                if site is not None:
                    self._places[step.number] = site.place

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Compare what steps did with what the loss did."""
        levels = run.instrument(Levels)
        if not levels.alone or run.history.updates < self.thresholds["updates"]:
            return
        looks = run.instrument(Moves).of_steps()
        if not looks or len({look.number for look in looks}) > 1 or looks[-1].step < self.thresholds["updates"]:
            return
        ratios = [(look, _ratios(look, _born(looks))) for look in looks]
        if not all(each for _, each in ratios):
            return
        losses = levels.read()
        if len(losses) < _FEWEST or not all(level.loss == level.loss for level in losses):
            return
        late = [median(each) for look, each in ratios if look.step >= 8]
        first = median(ratios[0][1]) if looks[0].step == 1 else 0.0
        largest = max(max(each) for _, each in ratios)
        if _stays(losses) and len(late) > 2 and not _exploded(looks):
            if median(late) > self.thresholds["large"]:
                yield self._finding(looks[-1], median(late), "a step", losses)
            elif first > self.thresholds["first"]:
                yield self._finding(looks[-1], first, "the first step", losses)
        if largest < self.thresholds["small"] and largest * looks[-1].step < _STILL and _is_full(looks):
            learned = _learned(losses)
            if not learned:
                severity = Severity.INFO if learned is None else self.severity
                yield self._finding(looks[-1], largest, "no step", losses, severity)

    def _finding(
        self,
        look: StepMoves,
        ratio: float,
        which: str,
        losses: Sequence[Level],
        severity: Severity = Severity.WARNING,
    ) -> Finding:
        first, last = _ends(losses)
        small = which == "no step"
        factor = f"{_USUAL / ratio:.1g} times as large" if ratio else "that moves the weights"
        return Finding(
            rule=self.rule,
            severity=severity,
            confidence=self.confidence,
            place=self._places.get(look.number),
            subject=look.optimizer,
            seen=f"{which} of {look.optimizer} changes the weight matrices by "
            f"{'more than ' if small else ''}{ratio:.2g} of their size, where {_USUAL:g} is usual; "
            f"the loss was {first:.3g} and is {last:.3g} (a heuristic)",
            why="the weights stay as they were initialized, however long training lasts"
            if small
            else "weights that are replaced every few steps hold nothing of what was learned, or was initialized",
            remedy=f"try a learning rate {factor}, or look for a loss that is summed or scaled twice",
            evidence={"ratio": ratio, "steps": look.step, "rate": look.rate, "first_loss": first, "last_loss": last},
        )


def _born(looks: Sequence[StepMoves]) -> set[int]:
    """Matrices that were not at zero when they were first seen."""
    first: dict[int, Move] = {}
    for look in looks:
        for move in look.moves:
            first.setdefault(move.index, move)
    return {index for index, move in first.items() if move.weight > _SMALLEST}


def _ratios(look: StepMoves, born: set[int]) -> list[float]:
    """What a step changed of each weight matrix that is fed in full."""
    return [
        move.change / move.weight
        for move in look.moves
        if move.dims > 1
        and move.index in born
        and move.dtype in _DTYPES
        and 2 * move.fed >= move.sampled
        and move.weight > _SMALLEST
    ]


def _ends(losses: Sequence[Level]) -> tuple[float, float]:
    """The loss to begin with, and the mean of the last quarter."""
    return losses[0].loss, fmean(each.loss for each in losses[-max(2, len(losses) // 4) :])


def _exploded(looks: Sequence[StepMoves]) -> bool:
    """Whether the last gradients are a thousand times what is usual for the run."""
    sizes = [fmean(move.grad for move in look.moves) for look in looks if look.moves]
    return len(sizes) > 2 and not min(sizes[-2:]) < _EXPLODED * median(sizes[:-2])


def _stays(losses: Sequence[Level]) -> bool:
    """Whether the loss ends about where it began, or higher."""
    first, last = _ends(losses)
    return first > 0 and last > _FALLS * first


def _learned(losses: Sequence[Level]) -> bool | None:
    """Whether the loss is below that of a guess; None where that is not known."""
    known = [(each.loss - each.chance, each.chance) for each in losses if each.chance is not None]
    if len(known) < len(losses):
        return None
    return fmean(over for over, _ in known) < -_LEARNED * fmean(chance for _, chance in known)


def _is_full(looks: Sequence[StepMoves]) -> bool:
    """Whether the rate is not that of a warm-up."""
    last = looks[-1]
    return last.rate < _RISING * looks[0].rate and (last.full_rate is None or last.full_rate < _RISING * last.rate)
