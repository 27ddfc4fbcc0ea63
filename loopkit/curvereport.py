"""What `loopkit curves` prints: each pair of curves, drawn in a line, and what it says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loopkit.course import course
from loopkit.curvefiles import read_log
from loopkit.curvefit import thin
from loopkit.curvereading import CurveKind, CurveReading
from loopkit.curves import read_curves
from loopkit.curvetags import CurvePair, Series, pairs
from loopkit.errors import UsageError, did_you_mean

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 40


def judged(
    path: Path, *, train: str | None = None, val: str | None = None, reference: float | None = None
) -> list[tuple[CurvePair, list[CurveReading]]]:
    """Each pair of curves in a log, with what it says.

    Args:
        path: a TensorBoard folder or a JSON file.
        train, val: names to take, instead of those that look like losses.
        reference: the loss of a model that has learned nothing (`read_curves`).

    Raises:
        UsageError: it cannot be read, or no losses are in it; the message names what is.
        LoopkitError: tensorboard is missing.
    """
    if reference is not None and not 0 < reference < math.inf:
        raise UsageError(f"--reference takes a positive loss, such as 2.303 for ten classes, not {reference}")
    runs = read_log(path)
    found = pairs(runs) if train is None and val is None else _named(runs, train or "", val or "")
    if not found:
        tags = sorted({tag for series in runs.values() for tag in series})
        names = ", ".join(tags[:30]) + (f" and {len(tags) - 30} more" if len(tags) > 30 else "")
        raise UsageError(f"no loss among the names in {str(path)!r}: {names}; choose some with --train and --val")
    return [(pair, _read(pair, reference)) for pair in found]


def _named(runs: dict[str, dict[str, Series]], train: str, val: str) -> list[CurvePair]:
    known = {tag for series in runs.values() for tag in series}
    for tag in filter(None, (train, val)):
        if tag not in known:
            raise UsageError(f"nothing is named {tag!r}{did_you_mean(tag, known)} known: {', '.join(sorted(known))}")
    return [
        CurvePair(run, train if train in series else "", series.get(train, []), val if val in series else "",
                  series.get(val, []))
        for run, series in sorted(runs.items())
        if train in series or val in series
    ]  # fmt: skip


def _read(pair: CurvePair, reference: float | None) -> list[CurveReading]:
    readings = read_curves(pair.train, pair.val, rates=pair.rates, reference=reference)
    for metric in pair.metrics:
        held_out = read_curves(pair.train, metric.series, mode=metric.mode)
        readings += [each for each in held_out if each.kind is CurveKind.OVERFITTING and each.curve == "validation"]
    # The same thing, first seen in the loss, is said once; what a metric adds is its own numbers.
    return sorted(readings, key=lambda each: not each.kind.sick)


def to_dict(judgements: Sequence[tuple[CurvePair, list[CurveReading]]]) -> dict[str, Any]:
    """The report as plain values, for JSON."""
    curves = [
        {
            "run": pair.run,
            "train": pair.train_tag or None,
            "validation": pair.val_tag or None,
            "readings": [reading.to_dict() for reading in readings],
        }
        for pair, readings in judgements
    ]
    return {"schema": 1, "curves": curves}


def to_text(judgements: Sequence[tuple[CurvePair, list[CurveReading]]], *, drawn: bool) -> str:
    """The report for people; `drawn` if the terminal can show block characters."""
    return "\n\n".join("\n".join(_told(pair, readings, drawn)) for pair, readings in judgements)


def _told(pair: CurvePair, readings: Sequence[CurveReading], drawn: bool) -> list[str]:
    names = [(tag, series) for tag, series in ((pair.train_tag, pair.train), (pair.val_tag, pair.val)) if tag]
    width = max(len(tag) for tag, _ in names)
    lines = [pair.run if pair.run != "." else "curves"]
    lines += [f"  {tag:<{width}}  {_drawn(series) + '  ' if drawn else ''}{_ends(series)}" for tag, series in names]
    for reading in readings:
        since = f", since step {reading.began:,.6g}" if reading.began is not None else ""
        lines += [f"  {reading.kind}{since}", f"    seen   {reading.seen}", f"    try    {reading.remedy}"]
    return lines


def _ends(series: Series) -> str:
    shape = course(series)
    if not shape.points:
        return f"{len(series)} points, none of them finite"
    steps = f"steps {min(step for step, _ in series):,.6g} to {max(step for step, _ in series):,.6g}"
    return f"{shape.first:.4g} → {shape.last:.4g}   {len(series):,} points, {steps}"


def _drawn(series: Series) -> str:
    """A curve as a line of bars between its lowest and its highest value; × where it is not finite."""
    ordered = sorted(series)
    finite = [value for _, value in thin([p for p in ordered if math.isfinite(p[1])], _WIDTH)]
    if not finite:
        return "×"
    low, span = min(finite), max(finite) - min(finite)
    bars = "".join(_BARS[round((value - low) / span * 7) if span > 0 else 0] for value in finite)
    return bars + ("×" if course(series).lost is not None else "")
