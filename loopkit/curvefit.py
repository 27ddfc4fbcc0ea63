"""Robust statistics of a series of points: what one wild value, or half of the noise being wild, does not change.

A point is `(step, value)`, both floats; a series of them is ordered by step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median, median_low

Point = tuple[float, float]

CONSISTENT = 1.4826
"""Makes a median of absolute deviations the standard deviation of normal noise (1 / Φ⁻¹(3/4))."""


@dataclass(frozen=True, slots=True)
class Slope:
    """A slope and its 95 % interval, in values per step; the interval is infinite below four points."""

    value: float
    low: float
    high: float

    @property
    def rises(self) -> bool:
        """Whether the whole interval is above zero."""
        return self.low > 0

    @property
    def falls(self) -> bool:
        """Whether the whole interval is below zero."""
        return self.high < 0


def noise(values: Sequence[float]) -> float:
    """The standard deviation of the noise around a smooth trend of any shape; 0 below three values.

    1.4826 · median |xᵢ − (xᵢ₋₁ + xᵢ₊₁)/2| / √1.5: each value against the line between its neighbours (the pseudo-
    residuals of Gasser, Sroka and Jennen-Steinmetz, Biometrika 1986), with a median for the mean of squares.
    """
    off = [abs(b - a / 2 - c / 2) for a, b, c in zip(values, values[1:], values[2:], strict=False)]
    return CONSISTENT * median(off) / math.sqrt(1.5) if off else 0.0


def slope(points: Sequence[Point]) -> Slope:
    """The median of the slopes between all pairs of points, with Sen's interval (Theil 1950, Sen 1968).

    The interval is read off the sorted slopes, C ranks about the middle, C = 1.96 √(n(n−1)(2n+5)/18): the
    variance of Kendall's statistic, so it supposes independent noise but none of a certain shape.
    """
    slopes = sorted(
        (b[1] - a[1]) / (b[0] - a[0]) for n, a in enumerate(points) for b in points[n + 1 :] if b[0] != a[0]
    )
    if not slopes:
        return Slope(0.0, -math.inf, math.inf)
    n = len(points)
    reach = 1.96 * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    low, high = math.floor((len(slopes) - reach) / 2), math.ceil((len(slopes) + reach) / 2)
    return Slope(
        median(slopes),
        slopes[low] if n >= 4 and low >= 0 else -math.inf,
        slopes[high - 1] if n >= 4 and high <= len(slopes) else math.inf,
    )


def thin(points: Sequence[Point], most: int) -> list[Point]:
    """At most `most` points: of runs of neighbours of equal length, the middle step and the median value."""
    if len(points) <= most:
        return list(points)
    edges = [round(n * len(points) / most) for n in range(most + 1)]
    bins = [points[a:b] for a, b in pairwise(edges)]
    return [(median_low(step for step, _ in each), median(value for _, value in each)) for each in bins]


def smooth(values: Sequence[float], width: int) -> list[float]:
    """The running median over `width` values (odd); narrower at both ends, where the value itself remains."""
    half = width // 2
    smoothed = []
    for n in range(len(values)):
        reach = min(half, n, len(values) - 1 - n)
        smoothed.append(median(values[n - reach : n + reach + 1]))
    return smoothed
