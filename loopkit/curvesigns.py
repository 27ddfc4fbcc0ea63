"""The signs by which a person reads a learning curve, one function each, with the thresholds they go by.

How a change is told from noise: a *rise* is the end (the median of the last fifth of the points) minus the lowest of
the running medians. It counts if it is CLEAR times the noise (`curvefit.noise`), more where points are few; if it is
large beside the level; and if four fifths of the second half of the points since the lowest keep a third of it. A
trend counts if the whole interval of its Theil-Sen slope lies on one side of zero. A share of the level is used only
where all values are above zero; else (log-densities, accuracies) a share of the fall.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from loopkit.course import Course
from loopkit.curvefit import Point, noise, slope
from loopkit.curvereading import CurveKind, CurveReading

FEWEST = 5
"""Points below which a curve is not read."""
CLEAR = 4.0
"""A change of so many standard deviations of the noise is no noise."""
MANY = 12
"""Points since a minimum from which on their trend is evidence of its own; of fewer it is needed as well."""
OVERFIT = 0.1
"""Validation has risen by this share of its lowest value, …"""
REGAINED = 0.25
"""… or, where values may be negative, by this share of its fall."""
MEANWHILE = 0.1
"""Training must have fallen by this share since, or be below this share of its start, for that to be overfitting."""
DIVERGED = 0.5
"""Training has given back this share of its fall, and has risen by half as much of its lowest value."""
POOR = 0.8
"""The share of the loss of a model that has learned nothing, above which a plateau is a poor one."""
ERRATIC = 0.2
"""Noise as a share of the fall, and of the level, that hides the trend."""
FALLING = 0.05
"""The share of the whole fall that fell to the last quarter: above that of an exponential with 3 time constants."""
DROPPED = 0.6
"""What is left of the learning rate after a step of a schedule, at most."""
TOO_LOW = 0.1
"""A validation loss always below this share of training's is measured otherwise, or on data that was trained on."""


_SLOWER = "lower the learning rate, warm it up, clip gradients; look at the batches about that step"


# -- the sick ----------------------------------------------------------------------------------------------


def lost(curve: Course, name: str) -> CurveReading | None:
    """Not finite, from some step to the end."""
    if curve.lost is None:
        return None
    last = f"; the last finite value was {_say(curve.values[-1] * curve.sign)}" if curve.points else ""
    seen = f"the {name} loss is NaN or infinite from step {_say(curve.lost)} to the end{last}"
    return CurveReading(CurveKind.DIVERGING, name, curve.lost, seen, _SLOWER, {"lost": curve.lost})


def diverging(curve: Course, name: str, rates: Sequence[Point]) -> CurveReading | None:
    """The end has risen by DIVERGED of the fall and half as much of the lowest value, and does not come back."""
    if len(curve) < FEWEST:
        return None
    rise = curve.last - curve.low
    enough = rise >= DIVERGED * (curve.first - curve.low)
    enough &= not curve.positive or rise >= DIVERGED / 2 * curve.low
    began, best = curve.best
    if not enough or not _risen(curve) or _restarted(rates, began) or curve.late(1 / 3).falls:
        return None
    seen = (
        f"the {name} loss was lowest at step {_say(began)} with {_say(best * curve.sign)} and has risen to "
        f"{_say(curve.last * curve.sign)}"
    )
    return CurveReading(CurveKind.DIVERGING, name, began, seen, _SLOWER, _numbers(curve))


def overfitting(train: Course, held_out: Course) -> CurveReading | None:
    """Validation has risen by OVERFIT of its minimum, three points ago or more, and training fell MEANWHILE."""
    if len(held_out) < FEWEST or not _risen(held_out):
        return None
    rise = held_out.last - held_out.low
    if rise < (OVERFIT * held_out.low if held_out.positive else REGAINED * (held_out.first - held_out.low)):
        return None
    began, best = held_out.best
    numbers = _numbers(held_out)
    meanwhile = "; the training loss is not known"
    if len(train) >= FEWEST:
        then = train.near(began)
        learned = then - train.last >= MEANWHILE * (then if train.positive else train.fall)
        by_heart = train.positive and train.last <= min(then, MEANWHILE * train.first)
        if train.fall < 2 * train.noise or not (learned or by_heart):
            return None
        meanwhile = f", while the training loss went from {_say(then)} to {_say(train.last)}"
        numbers |= {"training_then": then, "training_last": train.last}
    seen = (
        f"validation was best at step {_say(began)} with {_say(best * held_out.sign)} and is at "
        f"{_say(held_out.last * held_out.sign)} now{meanwhile}"
    )
    remedy = (
        "keep the weights of that step (early stopping); more data or augmentation, weight decay, dropout, or a "
        "smaller model to get further"
    )
    return CurveReading(CurveKind.OVERFITTING, "validation", began, seen, remedy, numbers)


def _risen(curve: Course) -> bool:
    """Whether the curve is clearly above its minimum, of which it is at least three points past."""
    since = curve.points[curve.lowest :]
    rise = curve.last - curve.low
    if len(since) < 4 or rise <= 0:
        return False
    stays = [value > curve.low + rise / 3 for _, value in since[(len(since) + 1) // 2 :]]
    # The turn itself looks like noise where points are few; and of few, noise is known badly: ask for more there.
    jitter = min(curve.noise, noise([value for _, value in since])) if len(since) >= 5 else curve.noise
    rises = slope(since).rises
    if len(since) <= MANY:
        clear = rises and rise >= CLEAR * jitter * (1 + 4 / len(curve))
    else:
        clear = rise >= (0.75 if rises else 1.0) * CLEAR * jitter
    return clear and sum(stays) >= 0.8 * len(stays)


def _restarted(rates: Sequence[Point], began: float) -> bool:
    """Whether the learning rate fell before this step and has been raised again since, as warm restarts do."""
    before = [rate for step, rate in rates if step <= began]
    after = [rate for step, rate in rates if step > began]
    return bool(before and after) and max(before) > 1.5 * before[-1] and max(after) > 1.5 * before[-1]


def underfitting(train: Course, held_out: Course, reference: float | None) -> CurveReading | None:
    """Flat since the first half of the run, at POOR of the reference or more; validation no better."""
    if len(train) < FEWEST + 1 or not train.positive:
        return None
    known = reference is not None
    reference = train.first if reference is None else reference
    late = train.late(0.5)
    still = max(0.0, -late.value) * train.length / 2
    if train.last < POOR * reference or (late.falls and still > FALLING * train.last):
        return None
    learned_once = train.low < 0.9 * POOR * reference
    if learned_once or (len(held_out) and held_out.positive and held_out.last < 0.9 * train.last):
        return None
    near = train.last + max(0.1 * max(0.0, train.fall), train.noise)
    flat = next((n for n in range(len(train)) if all(v <= near for v in train.smoothed[n : n + 3])), len(train))
    if flat > len(train) / 2:
        return None
    began = train.points[flat][0]
    than = "a model that has learned nothing" if known else "its first value"
    seen = (
        f"the training loss has been flat since step {_say(began)}, at {_say(train.last)}: "
        f"{train.last / reference:.0%} of that of {than} ({_say(reference)})"
    )
    if not known:
        seen = seen.replace("of that of its", "of its")
    remedy = (
        "check that the model can learn one batch by heart; then raise the learning rate, train all layers, or use "
        "a larger model with less regularisation. A model that was trained before may look like this and be well"
    )
    numbers = _numbers(train) | {"reference": reference}
    return CurveReading(CurveKind.UNDERFITTING, "training", began, seen, remedy, numbers)


def erratic(curve: Course, name: str) -> CurveReading | None:
    """The noise, of all or of the second half alone, is ERRATIC of the fall and of the second half's level; of the
    fall alone and twice as much, where there is no level.
    """
    if len(curve) < FEWEST + 3:
        return None
    jitter = 0.0
    limit = max(ERRATIC * curve.fall, ERRATIC * curve.level) if curve.positive else 2 * ERRATIC * abs(curve.fall)
    for values in (curve.values, curve.values[-max(FEWEST + 3, len(curve) // 2) :]):
        # That few points jump by chance more than their like is not unlikely.
        if noise(values) >= limit * (1 + 4 / len(values)):
            jitter = max(jitter, noise(values))
    if jitter == 0:
        return None
    jumps = [
        (point[0], abs(point[1] - (before[1] + after[1]) / 2))
        for before, point, after in zip(curve.points, curve.points[1:], curve.points[2:], strict=False)
    ]
    began = next((step for step, jump in jumps if jump >= jitter), curve.points[0][0])
    first, level, last = (_say(value * curve.sign) for value in (curve.first, curve.level, curve.last))
    seen = (
        f"{name} jumps by {_say(jitter)} from point to point, about a level of {level}; from start to end it "
        f"went from {first} to {last}"
    )
    remedy = "a lower learning rate, larger batches or accumulation, clipped gradients, shuffled data"
    if name == "validation":
        remedy = "a lower learning rate, averaged weights, more validation data"
    return CurveReading(CurveKind.ERRATIC, name, began, seen, remedy, _numbers(curve) | {"jumps": jitter})


def too_low(train: Course, held_out: Course) -> CurveReading | None:
    """Validation is below TOO_LOW of training at every point of three or more."""
    if min(len(train), len(held_out)) < 3 or not (train.positive and held_out.positive):
        return None
    ratios = [value / train.near(step) for step, value in held_out.points]
    if max(ratios) >= TOO_LOW:
        return None
    seen = f"the validation loss is at most {max(ratios):.2g} of the training loss wherever both are known"
    remedy = "compare how both are averaged (sum or mean, divided twice); then look for training data in validation"
    return CurveReading(CurveKind.TOO_LOW, "validation", None, seen, remedy, {"ratio": max(ratios)})


# -- the rest ----------------------------------------------------------------------------------------------


def drops(train: Course, held_out: Course, rates: Sequence[Point]) -> list[CurveReading | None]:
    """Each fall of the rate to DROPPED of it or less, in one go, that ended a plateau.

    Before it the slope is level, or so flat that going on as long again would bring less than half of the drop; the
    drop is CLEAR and a twentieth of the level or fall.
    """
    curve, name = (train, "training") if len(train) >= FEWEST else (held_out, "validation")
    found: list[CurveReading | None] = []
    since = -math.inf
    for (_, rate), (step, lowered) in pairwise(rates):
        if not 0 < lowered <= DROPPED * rate:
            continue
        before = [point for point in curve.points if since <= point[0] <= step]
        after = [point for point in curve.points if point[0] > step]
        since = step
        if len(before) < 4 or len(after) < 3:
            continue
        found.append(_drop(curve, name, step, (rate, lowered), before[-(len(before) + 1) // 2 :], after[1:]))
    return found


def _drop(
    curve: Course, name: str, step: float, rates: Point, before: Sequence[Point], after: Sequence[Point]
) -> CurveReading | None:
    held = sorted(value for _, value in before)
    then = sorted(value for _, value in after[: max(2, len(before))])
    high, low = held[len(held) // 2], then[len(then) // 2]
    drop = high - low
    trend = max(0.0, -slope(before).value) * (before[-1][0] - before[0][0])
    least = 0.05 * (abs(high) if curve.positive else abs(curve.fall))
    if drop < max(CLEAR * curve.noise, least) or 2 * trend > drop:
        return None
    seen = (
        f"the {name} curve had levelled off at {_say(high * curve.sign)} and went to {_say(low * curve.sign)} when "
        f"the learning rate was lowered from {_say(rates[0])} to {_say(rates[1])} at step {_say(step)}"
    )
    remedy = "nothing is wrong; lowering the rate earlier would save the steps of the plateau"
    return CurveReading(
        CurveKind.DROP,
        name,
        step,
        seen,
        remedy,
        {"before": high, "after": low, "rate": rates[0], "lowered": rates[1]},
    )


def ending(train: Course, held_out: Course) -> CurveReading:
    """Still falling, if the last third clearly falls and the last quarter brought FALLING of all; healthy or flat."""
    by_validation = len(held_out) >= FEWEST
    curve, name = (held_out, "validation") if by_validation else (train, "training")
    if len(curve) < FEWEST:
        fewest = f"a curve of {max(len(train), len(held_out))} points says nothing yet: {FEWEST} are needed"
        return CurveReading(CurveKind.TOO_SHORT, name, None, fewest, "log more often, or train longer")
    late = curve.late(1 / 3)
    recent = -late.value * curve.length / 4
    numbers = _numbers(curve) | {"last_quarter": recent}
    course_of = f"{name} went from {_say(curve.first * curve.sign)} to {_say(curve.last * curve.sign)}"
    if late.falls and curve.fall > 2 * curve.noise and recent >= FALLING * curve.fall:
        share = min(1.0, recent / curve.fall)
        seen = f"{course_of}, {share:.0%} of that in the last quarter of the run: it had not levelled off"
        began = curve.points[-max(4, round(len(curve) / 3))][0]
        return CurveReading(CurveKind.STILL_FALLING, name, began, seen, "train longer", numbers)
    if curve.fall > 2 * curve.noise:
        seen = f"{course_of} and has levelled off"
        return CurveReading(CurveKind.HEALTHY, name, None, seen, "nothing: no sign of trouble", numbers)
    remedy = "nothing, if it was good to begin with; else see whether the model can learn one batch by heart"
    return CurveReading(CurveKind.FLAT, name, None, f"{course_of}: no fall beyond its noise", remedy, numbers)


def _numbers(curve: Course) -> dict[str, float]:
    """What every verdict rests on."""
    return {
        "first": curve.first * curve.sign,
        "best": curve.best[1] * curve.sign,
        "best_step": curve.best[0],
        "last": curve.last * curve.sign,
        "noise": curve.noise,
        "points": float(curve.given),
    }


def _say(number: float) -> str:
    """Four digits, and steps in full."""
    return f"{number:,.0f}" if abs(number) >= 1000 and float(number).is_integer() else f"{number:.4g}"
