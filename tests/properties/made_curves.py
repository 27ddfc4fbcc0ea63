"""Made learning curves of known kind, with noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

Series = list[tuple[float, float]]
_STEPS = 1000.0


@dataclass
class Curves:
    """What `read_curves` takes."""

    training: Series
    validation: Series = field(default_factory=list)
    rates: Series = field(default_factory=list)


def _series(random: Random, shape: Callable[[float], float], points: int, noise: float) -> Series:
    """A shape over [0, 1], with noise that is a share of its level."""
    return [(n * _STEPS / points, shape(n / (points - 1)) * math.exp(random.gauss(0, noise))) for n in range(points)]


def healthy(random: Random) -> Curves:
    """Exponential falls to a floor, validation somewhat above training. Noise: up to a tenth of the level; of single
    batches (100 points and more) 15 %, of 500 and more 30 %.
    """
    points = random.choice([5, 6, 8, 10, 15, 20, 40, 100, 500, 2000])
    floor, speed = random.uniform(0.02, 0.6), random.uniform(2, 15)
    above = min(0.95, floor * random.uniform(1, 1.5))
    evaluations = random.choice([0, 5, 6, 8, 10, 20, 50, 200])
    noise = 0.3 if points >= 500 else 0.15 if points >= 100 else 0.1
    training = _series(random, lambda t: floor + (1 - floor) * math.exp(-speed * t), points, random.uniform(0, noise))
    if not evaluations:
        return Curves(training)
    return Curves(
        training,
        _series(random, lambda t: above + (1 - above) * math.exp(-speed * t), evaluations, random.uniform(0, 0.1)),
    )


def plateau(random: Random) -> Curves:
    """Training falls all along; validation falls in the first fifth and stays, its noise a tenth of its level."""
    evaluations = random.choice([6, 8, 10, 20, 50, 200])
    return Curves(
        _series(random, lambda t: 0.01 + math.exp(-4 * t), 40, 0.05),
        _series(random, lambda t: 0.3 + math.exp(-15 * t), evaluations, 0.1),
    )


def overfitting(random: Random) -> Curves:
    """Training falls to nothing; validation is a parabola down to 15-50 % of the run and a line up from there."""
    turn, low, up = random.uniform(0.15, 0.5), random.uniform(0.2, 0.6), random.uniform(0.4, 2)
    speed = random.uniform(3, 8)

    def held_out(t: float) -> float:
        if t < turn:
            return low + (1 - low) * ((turn - t) / turn) ** 2
        return low * (1 + up * (t - turn) / (1 - turn))

    return Curves(
        _series(
            random,
            lambda t: 0.01 + math.exp(-speed * t),
            random.choice([8, 10, 15, 20, 40, 100, 500, 2000]),
            random.uniform(0, 0.1),
        ),
        _series(random, held_out, random.choice([8, 10, 20, 50]), random.uniform(0, 0.05)),
    )


def underfitting(random: Random) -> Curves:
    """Both fall by up to 15 % at the very start and stay there."""
    fall, speed = random.uniform(0, 0.15), random.uniform(10, 40)

    def shape(t: float) -> float:
        return 2.3 * (1 - fall + fall * math.exp(-speed * t))

    training = _series(random, shape, random.choice([8, 10, 20, 100, 1000]), random.uniform(0, 0.05))
    evaluations = random.choice([0, 8, 10, 20])
    return Curves(training, _series(random, shape, evaluations, random.uniform(0, 0.03)) if evaluations else [])


def erratic(random: Random) -> Curves:
    """A fall under noise of 35-60 % of the level."""
    floor = random.uniform(0.3, 0.7)
    points = random.choice([10, 15, 20, 40, 60])
    return Curves(
        _series(random, lambda t: floor + (1 - floor) * math.exp(-5 * t), points, random.uniform(0.35, 0.6))
    )


def diverging(random: Random) -> Curves:
    """A fall, and at 20-70 % of the run a jump up and a rise to the end."""
    turn, floor, up = random.uniform(0.2, 0.7), random.uniform(0.1, 0.5), random.uniform(1, 5)

    def falls(t: float) -> float:
        return floor + (1 - floor) * math.exp(-6 * t)

    def shape(t: float) -> float:
        return falls(t) if t < turn else falls(turn) * (1 + up / 2 + up * (t - turn) / (1 - turn))

    return Curves(_series(random, shape, random.choice([10, 20, 40, 100, 1000]), random.uniform(0, 0.1)))


def still_falling(random: Random) -> Curves:
    """An exponential that is cut off after half a time constant to one and a half."""
    speed = random.uniform(0.5, 1.5)
    points = random.choice([8, 10, 20, 100, 1000])
    return Curves(_series(random, lambda t: 0.1 + 0.9 * math.exp(-speed * t), points, random.uniform(0, 0.03)))


def dropping(random: Random) -> Curves:
    """A plateau, left when the learning rate goes to a tenth."""
    turn, high = random.uniform(0.4, 0.7), random.uniform(0.2, 0.6)
    low = high * random.uniform(0.3, 0.7)

    def shape(t: float) -> float:
        if t < turn:
            return high + (1 - high) * math.exp(-15 * t)
        return low + (high - low) * math.exp(-40 * (t - turn))

    points = random.choice([20, 40, 100, 1000])
    rates = [(n * _STEPS / points, 0.1 if n / (points - 1) < turn else 0.01) for n in range(points)]
    return Curves(_series(random, shape, points, random.uniform(0, 0.03)), rates=rates)
