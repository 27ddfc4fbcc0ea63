"""A metric that a scheduler follows in the wrong direction, or takes for an epoch."""

from __future__ import annotations

import ast
import linecache
import re
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from typing import Any

from loopkit import Confidence, CurveLog, Finding, Place, Run, SchedulerReading, Severity, Update, hookimpl

_LEAST = 4  # metrics from which on a direction is judged
_CLEAR = 0.6  # rank correlation with time that is more than noise
_HIGHER = re.compile(r"acc|accuracy|accuracies|f1|auc|auroc|map|iou|miou|dice|bleu|precision|recall|r2|correct")
_LOWER = re.compile(r"loss|losses|err|error|mse|mae|rmse|ppl|perplexity|wer|cer|fid|nll|ce")
_KEPT = 32


class MetricDirectionWrong:
    """A plateau scheduler follows its metric the wrong way, or another scheduler takes a metric for an epoch.

    What it looks for
        A scheduler that is no plateau scheduler and was given a tensor, or fractions that do not count upwards, where
        it takes an epoch. And a `ReduceLROnPlateau` with `mode="min"` whose metric rises, or with `mode="max"` whose
        metric falls, in four evaluations and more, while that is an improvement: the script calls the metric an
        accuracy (or a loss), or the validation loss goes the other way (or is the metric).

    Why that hurts
        The rate is cut whenever the model improves, or depends on a number that has nothing to do with time.

    A loop that has it
        scheduler = ReduceLROnPlateau(optimizer)
        for epoch in range(epochs):
            train_one_epoch(model, optimizer)
            scheduler.step(accuracy(model))

    The repair
        `ReduceLROnPlateau(optimizer, mode="max")` for what should rise; `scheduler.step()` without a metric for all
        other schedulers.

    Left alone
        Fractions of an epoch, which count upwards; a validation loss that really rises; negated metrics and error
        rates; metrics that go up and down, fewer than four of them, and of which the script's names say nothing.

    What it costs
        One call a logged number, and one look at each scheduler when the run ends.
    """

    rule = "metric-direction-wrong"
    severity = Severity.WARNING
    confidence = Confidence.HEURISTIC

    def __init__(self) -> None:
        self._positions: dict[int, list[float]] = {}

    @hookimpl
    def metric_logged(self, run: Run, name: str, value: Any, step: int) -> None:
        """Keep the validation loss."""
        run.instrument(CurveLog).hear(run, name, value, step)

    @hookimpl
    def update_finished(self, update: Update) -> None:
        """Note positions that were given."""
        for _, advance in update.schedulers():
            positions = self._positions.setdefault(advance.life.serial, [])
            if advance.explicit and advance.position is not None and len(positions) < _KEPT:
                positions.append(advance.position)

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Judge each scheduler that was given numbers."""
        losses = [point[1] for point in run.instrument(CurveLog).curve("val/loss")]
        for advance in run.schedules():
            if not advance.explicit:
                continue
            if advance.life.shape.mode:
                yield from self._followed(advance, losses)
            elif advance.odd or self._goes_back(advance):
                yield self._taken_for_an_epoch(advance)

    def _goes_back(self, advance: SchedulerReading) -> bool:
        """Whether fractions were given that do not grow, as those of an epoch do."""
        positions = [*self._positions.get(advance.life.serial, ())]
        if advance.position is not None and positions[-1:] != [advance.position]:
            positions.append(advance.position)
        fractions = [each for each in positions if each != int(each)] if all(map(_is_finite, positions)) else []
        back = sum(second < first for first, second in pairwise(positions))
        if len(fractions) < 2 or 2 * len(fractions) < len(positions):
            return False
        return back > 0 or (max(positions) < 1 and advance.life.trained().times >= 3)

    def _taken_for_an_epoch(self, advance: SchedulerReading) -> Finding:
        what = "a tensor" if advance.odd else f"{advance.position:.4g}"
        return self._finding(
            advance,
            Confidence.PROOF,
            f"the {advance.scheduler} scheduler of {advance.optimizer} was advanced to epoch {what}: step() was "
            "given a metric",
            "only ReduceLROnPlateau takes a metric; all others take it for the number of the epoch, and compute the "
            "rate from that",
            "call scheduler.step() without an argument",
        )

    def _followed(self, advance: SchedulerReading, losses: list[float]) -> Iterator[Finding]:
        """What a plateau scheduler was given, and where it should have gone."""
        metrics, mode = advance.life.metrics, advance.life.shape.mode
        sign = 1 if mode == "min" else -1
        trend = _trend(metrics)
        if len(metrics) < _LEAST or sign * trend < _CLEAR:
            return
        name = _name_of_metric(advance.life.site.place)
        words = re.split(r"[^a-z0-9]+", name.lower())
        better, worse = (_HIGHER, _LOWER) if mode == "min" else (_LOWER, _HIGHER)
        named = any(better.fullmatch(word) for word in words) and not any(worse.fullmatch(word) for word in words)
        paired = len(losses) >= _LEAST and _trend(losses) <= -_CLEAR
        if not named and not paired:
            return
        because = f"the script calls it {name}" if named else "the validation loss fell all the while"
        yield self._finding(
            advance,
            self.confidence,
            f'ReduceLROnPlateau with mode="{mode}" was given a metric that went from {metrics[0]:.4g} to '
            f"{metrics[-1]:.4g} in {len(metrics)} evaluations, and {because} (a heuristic)",
            "the scheduler takes an improvement for a plateau and cuts the learning rate while the model improves",
            f'make it with mode="{"max" if mode == "min" else "min"}"',
        )

    def _finding(
        self, advance: SchedulerReading, confidence: Confidence, seen: str, why: str, remedy: str
    ) -> Finding:
        life = advance.life
        made = life.made or life.site
        direction = bool(life.shape.mode)
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=confidence,
            place=made.place if direction else life.site.place,
            places={"scheduler": life.site.place, "scheduler made": made.place},
            subject=advance.scheduler,
            seen=seen,
            why=why,
            remedy=remedy,
            evidence={
                "scheduler": advance.scheduler,
                "optimizer": advance.optimizer,
                "mode": life.shape.mode,
                "metrics": list(life.metrics),
                "positions": self._positions.get(life.serial, []),
                "scheduler_frames": [str(place) for place in life.site.chain],
            },
        )


def _trend(values: Sequence[float]) -> float:
    """Kendall's rank correlation with time: 1 where each value is larger than all before it."""
    pairs = list(combinations(values, 2))
    return sum((second > first) - (second < first) for first, second in pairs) / len(pairs) if pairs else 0.0


def _is_finite(value: float) -> bool:
    return abs(value) < float("inf")


def _name_of_metric(place: Place) -> str:
    """What the script calls the metric, where it hands on a plain name: `val_acc` of `scheduler.step(val_acc)`."""
    try:
        call = ast.parse(linecache.getline(place.file, place.line).strip(), mode="eval").body
    except SyntaxError:
        return ""
    if not isinstance(call, ast.Call) or not [*call.args, *call.keywords]:
        return ""
    given = call.args[0] if call.args else call.keywords[0].value
    while isinstance(given, ast.Call):  # `float(accuracy)`, `accuracy.item()`, `accuracy(model)`
        inner = given.func
        if isinstance(inner, ast.Attribute) and inner.attr in ("item", "mean"):
            given = inner.value
        elif isinstance(inner, ast.Name) and inner.id == "float" and given.args:
            given = given.args[0]
        else:
            given = inner
    if isinstance(given, ast.Subscript) and isinstance(given.slice, ast.Constant):
        return str(given.slice.value)
    if isinstance(given, ast.Attribute):
        return given.attr
    return given.id if isinstance(given, ast.Name) else ""
