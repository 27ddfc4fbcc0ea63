"""One series of a learning curve, cleaned, thinned and measured."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from statistics import median

from loopkit.curvefit import Point, Slope, noise, slope, smooth, thin

MOST = 60
"""Points that are looked at; of a longer series, the medians of so many bins. An eye on a plot takes in no more, and
the noise of single batches is not a curve's."""

_HUGE = 1e100
"""A value beyond it is as good as infinite: no loss in single precision gets there, and sums of such may overflow."""


@dataclass(frozen=True)
class Course:
    """A series in the order of its steps, turned so that lower is better.

    Args:
        points: thinned to `MOST`; finite.
        given: finite values there were.
        sign: -1 where the series was turned, so that `sign * value` is what the user logged.
        lost: the step from which on, up to the end, no value was finite; None where the last one is.
    """

    points: tuple[Point, ...]
    given: int
    sign: float
    lost: float | None

    @cached_property
    def values(self) -> list[float]:
        """The values of the points."""
        return [value for _, value in self.points]

    @cached_property
    def noise(self) -> float:
        """Standard deviation of the points around their trend (`curvefit.noise`)."""
        return noise(self.values)

    @cached_property
    def smoothed(self) -> list[float]:
        """Running median: over 3 points of 7 or more, over 5 of 30 or more."""
        return smooth(self.values, 5 if len(self.points) >= 30 else 3 if len(self.points) >= 7 else 1)

    @property
    def first(self) -> float:
        """The level at the start: the median of the first twentieth."""
        return median(self.values[: max(1, len(self.points) // 20)])

    @property
    def last(self) -> float:
        """The level at the end: the median of the last fifth, of two points at least."""
        return median(self.values[-max(2, len(self.points) // 5) :])

    @cached_property
    def lowest(self) -> int:
        """Which point is the best of the smoothed ones."""
        return min(range(len(self.points)), key=lambda n: self.smoothed[n])

    @property
    def low(self) -> float:
        """The best smoothed value."""
        return self.smoothed[self.lowest]

    @property
    def best(self) -> Point:
        """The best point as it is, within reach of the best smoothed one: where a person would put the finger."""
        return min(self.points[max(0, self.lowest - 2) : self.lowest + 3], key=lambda point: point[1])

    @property
    def fall(self) -> float:
        """From the start to the end; below zero where it rose."""
        return self.first - self.last

    @property
    def positive(self) -> bool:
        """Whether a share of its level means something: a loss whose floor is zero."""
        return self.sign > 0 and min(self.values) > 0

    @property
    def level(self) -> float:
        """The median of its second half."""
        return median(self.values[len(self.points) // 2 :])

    @property
    def length(self) -> float:
        """Steps from the first point to the last."""
        return self.points[-1][0] - self.points[0][0]

    def late(self, share: float) -> Slope:
        """The slope of the last `share` of the points, of four at least."""
        return slope(self.points[-max(4, round(share * len(self.points))) :])

    def near(self, step: float) -> float:
        """The level about a step: the median of the three points nearest to it."""
        return median(value for _, value in sorted(self.points, key=lambda point: abs(point[0] - step))[:3])

    def __len__(self) -> int:
        return len(self.points)


def course(series: Iterable[Point], sign: float = 1.0) -> Course:
    """A series as it came: in any order, a step twice (the later value holds), not finite in places."""
    kept: dict[float, float] = {}
    for step, value in series:
        if abs(step) < _HUGE:
            kept[step] = sign * value
    ordered = sorted(kept.items())
    finite = [(step, value) for step, value in ordered if abs(value) < _HUGE]
    end = finite[-1][0] if finite else -math.inf
    lost = next((step for step, _ in ordered if step > end), None)
    return Course(tuple(thin(finite, MOST)), len(finite), sign, lost)
