"""Learning curves, read as a person would read them: of what kind they are, since when, and what to try.

One run is judged by its training loss, its validation loss (or another validation metric), and its learning rate, as
far as there are such. Five points are enough, as of an epoch each; thousands become the medians of 60 bins. All
rests on medians, on Theil-Sen slopes with their intervals, and on the noise as the curve itself shows it, so one wild
value changes nothing; and all thresholds are shares, so no verdict depends on the unit of the loss or of the steps.

The thresholds (`curvesigns.py`) were chosen by reading made curves, and then set so that of 10,000 healthy made ones,
with noise of up to a tenth of the level (a third for single batches), at most two are called sick. A curve is a
symptom all the same: a verdict says what to look at, not what is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from loopkit.course import course
from loopkit.curvefit import Point
from loopkit.curvereading import CurveReading
from loopkit.curvesigns import diverging, drops, ending, erratic, lost, overfitting, too_low, underfitting


def read_curves(
    training: Iterable[Point] = (),
    validation: Iterable[Point] = (),
    *,
    mode: str = "min",
    rates: Iterable[Point] = (),
    reference: float | None = None,
) -> list[CurveReading]:
    """What the curves of one run say, the gravest first; never empty. Steps of all series count the same thing.

    Args:
        training: (step, loss) of training; empty if it was not logged.
        validation: (step, value) of the validation loss or another metric.
        mode: "min" or "max": which way validation is better.
        rates: (step, learning rate).
        reference: the loss of a model that has learned nothing, such as ln C of C equally frequent classes; without
            it, the first training loss stands for it, which is wrong for a model that was trained before.

    Raises:
        ValueError: `mode` is neither "min" nor "max", or `reference` is no positive number.
    """
    if mode not in ("min", "max"):
        raise ValueError(f'mode is "min" or "max", not {mode!r}')
    if reference is not None and not 0 < reference < math.inf:
        raise ValueError(f"reference is the positive loss of a model that has learned nothing, not {reference!r}")
    train, held_out = course(training), course(validation, -1.0 if mode == "max" else 1.0)
    speeds = sorted(point for point in rates if all(map(math.isfinite, point)))
    found = [lost(train, "training") or diverging(train, "training", speeds) or lost(held_out, "validation")]
    if not any(found):
        found.append(overfitting(train, held_out))
    if not any(found):
        found.append(erratic(train, "training") or erratic(held_out, "validation"))
    if not any(found):
        found.append(underfitting(train, held_out, reference))
    found.append(too_low(train, held_out))
    found += drops(train, held_out, speeds)
    if not any(each and each.kind.sick for each in found):
        found.append(ending(train, held_out))
    return [each for each in found if each is not None]
