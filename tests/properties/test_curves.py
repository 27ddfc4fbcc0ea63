"""The reading of learning curves on 400 made histories of each kind, and what must not change it."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from loopkit import CurveKind, CurveReading, read_curves
from loopkit.course import course
from tests.properties import made_curves as made
from tests.properties.made_curves import Curves, Series

HISTORIES = 400
Maker = Callable[[Random], Curves]
KINDS: dict[CurveKind, Maker] = {
    CurveKind.OVERFITTING: made.overfitting,
    CurveKind.UNDERFITTING: made.underfitting,
    CurveKind.ERRATIC: made.erratic,
    CurveKind.DIVERGING: made.diverging,
    CurveKind.STILL_FALLING: made.still_falling,
    CurveKind.DROP: made.dropping,
}
SICK = [kind for kind in KINDS if kind.sick]


def read(curves: Curves) -> list[CurveReading]:
    return read_curves(curves.training, curves.validation, rates=curves.rates)


def test_none_of_the_healthy_is_called_sick() -> None:
    for seed in range(HISTORIES):
        readings = read(made.healthy(Random(seed)))
        assert not [reading for reading in readings if reading.kind.sick], f"seed {seed}: {readings}"


def test_a_noisy_plateau_of_validation_beside_a_falling_training_loss_is_not_overfitting() -> None:
    """At a tenth of the level the end is often a tenth above the minimum. Measured: 9 of 4,000 are called so."""
    found = 0
    for seed in range(HISTORIES):
        curves = made.plateau(Random(seed))
        found += any(reading.kind is CurveKind.OVERFITTING for reading in read(curves))
    assert found <= 3


@pytest.mark.parametrize(
    ("kind", "named"),
    # Measured on 1,000 others each: 97, 93, 81, 94, 99 and 99.7 %; of 10,000 healthy ones, 2 are called sick.
    [
        (CurveKind.OVERFITTING, 0.95),
        (CurveKind.UNDERFITTING, 0.9),
        (CurveKind.ERRATIC, 0.75),
        (CurveKind.DIVERGING, 0.91),
        (CurveKind.STILL_FALLING, 0.97),
        (CurveKind.DROP, 0.97),
    ],
)
def test_each_kind_is_named_at_a_high_rate(kind: CurveKind, named: float) -> None:
    found = 0
    for seed in range(HISTORIES):
        kinds = {reading.kind for reading in read(KINDS[kind](Random(seed)))}
        found += kind in kinds
        assert kind.sick or not any(each.sick for each in kinds), f"seed {seed} is well and called {kinds}"
    assert found / HISTORIES >= named


def test_it_began_about_where_it_was_made_to() -> None:
    """The step that is named lies within a tenth of the run of the turn, nine times of ten."""
    near = named = 0
    for seed in range(HISTORIES):
        turn = Random(seed).uniform(0.15, 0.5) * 1000  # the maker's first draw
        for reading in read(made.overfitting(Random(seed))):
            if reading.kind is CurveKind.OVERFITTING and reading.began is not None:
                named += 1
                near += abs(reading.began - turn) <= 100
    assert near >= 0.9 * named


@given(st.sampled_from(list(KINDS)), st.integers(0, 10**6), st.integers(-20, 20), st.integers(-(2**20), 2**20))
@settings(max_examples=60)
def test_neither_the_unit_of_the_loss_nor_the_first_step_matters(
    kind: CurveKind, seed: int, power: int, by: int
) -> None:
    curves = KINDS[kind](Random(seed))
    scale = 2.0**power

    def turned(series: Series, scale: float = scale) -> Series:
        return [(round(step) + by, value * scale) for step, value in series]

    whole = Curves(*(turned(series, 1.0) for series in (curves.training, curves.validation, curves.rates)))
    other = Curves(turned(curves.training), turned(curves.validation), turned(curves.rates, 1.0))
    first, second = read(whole), read(other)
    assert [(each.kind, each.curve, each.began) for each in first] == [
        (each.kind, each.curve, each.began) for each in second
    ]


@given(st.sampled_from(list(KINDS)), st.integers(0, 10**6))
@settings(max_examples=30)
def test_the_order_of_points_does_not_matter(kind: CurveKind, seed: int) -> None:
    curves, random = KINDS[kind](Random(seed)), Random(seed)
    every = (curves.training, curves.validation, curves.rates)
    mixed = Curves(*(random.sample(series, len(series)) for series in every))
    assert read(mixed) == read(curves)


@given(st.integers(0, 10**6), st.floats(1, 1e30), st.integers(1, 14))
@settings(max_examples=60)
def test_one_wild_value_does_not_make_a_healthy_curve_sick(seed: int, factor: float, at: int) -> None:
    curves = made.healthy(Random(seed))
    assume(len(curves.training) >= 20)
    whole = course(curves.training)
    assume(whole.noise < 0.12 * whole.level)  # at a fifth of the level, any one jump more may be the last straw
    assume(not any(reading.kind.sick for reading in read(curves)))
    step, value = curves.training[at]
    curves.training[at] = (step, value * factor)
    assert not any(reading.kind.sick for reading in read(curves))


_NUMBER = st.one_of(st.floats(), st.sampled_from([0.0, math.nan, math.inf, -math.inf, 1e308, 5e-324]))
_SERIES = st.lists(st.tuples(st.one_of(st.integers(-5, 50).map(float), st.floats()), _NUMBER), max_size=80)


@given(_SERIES, _SERIES, _SERIES, st.sampled_from(["min", "max"]), st.one_of(st.none(), st.floats(1e-300, 1e300)))
@settings(max_examples=300)
def test_whatever_is_logged_there_is_an_answer(
    training: Series, validation: Series, rates: Series, mode: str, reference: float | None
) -> None:
    readings = read_curves(training, validation, mode=mode, rates=rates, reference=reference)
    assert readings
    for reading in readings:
        assert reading.seen
        assert reading.remedy
        assert reading.to_dict()["kind"] == reading.kind
