"""Learning curves: the statistics, the reading, and the numbers of a run."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import loopkit
from loopkit import CurveKind, CurveLog, read_curves
from loopkit.course import course
from loopkit.curvefit import noise, slope, smooth, thin

EXAMPLES = Path(__file__).parents[2] / "examples"


def exponential(points: int = 20, floor: float = 0.1) -> list[tuple[float, float]]:
    return [(n * 10.0, floor + math.exp(-6 * n / points)) for n in range(points)]


# -- statistics ------------------------------------------------------------------------------------------


def test_noise_is_that_of_the_points_and_not_of_the_trend() -> None:
    source = random.Random(0)
    values = [100 * math.exp(-n / 100) + source.gauss(0, 0.5) for n in range(2000)]
    assert noise(values) == pytest.approx(0.5, rel=0.1)
    values[::10] = [1e9] * 200
    assert noise(values) < 1.0, "a tenth of wild values, each of which spoils three lines, changes little"
    assert noise([1.0, 2.0]) == 0


def test_slope_is_that_of_the_line_whatever_one_point_does() -> None:
    points = [(float(n), 3.0 * n) for n in range(20)]
    points[7] = (7.0, 1e6)
    found = slope(points)
    assert found.value == pytest.approx(3.0)
    assert found.rises
    assert not slope(points[:3]).rises, "three points prove no trend"
    assert slope([(1.0, 1.0)]).value == 0


def test_the_interval_of_a_slope_holds_the_true_one_in_95_percent() -> None:
    source = random.Random(0)
    missed = 0
    for _ in range(500):
        found = slope([(float(n), 2.0 * n + source.gauss(0, 3)) for n in range(15)])
        missed += not found.low <= 2.0 <= found.high
    assert 0.02 <= missed / 500 <= 0.08


def test_thinning_keeps_the_shape_and_the_number() -> None:
    points = [(float(n), float(n % 7 == 0) * 1e6 + n) for n in range(1000)]
    few = thin(points, 60)
    assert len(few) == 60
    assert all(abs(step - value) < 10 for step, value in few)
    assert thin(points[:5], 60) == points[:5]


def test_a_running_median_narrows_towards_the_ends() -> None:
    assert smooth([5.0, 1.0, 9.0, 2.0, 3.0], 3) == [5.0, 5.0, 2.0, 3.0, 3.0]


def test_a_course_is_sorted_finite_and_the_later_of_two_values_holds() -> None:
    found = course([(2, 5.0), (1, 4.0), (3, math.nan), (2, 6.0), (4, 1.0), (math.nan, 3.0), (5, math.inf)])
    assert found.points == ((1, 4.0), (2, 6.0), (4, 1.0))
    assert found.lost == 5


# -- the reading -----------------------------------------------------------------------------------------


def kinds(*args: object, **options: object) -> list[CurveKind]:
    return [reading.kind for reading in read_curves(*args, **options)]  # type: ignore[arg-type]


def test_an_accuracy_that_falls_again_is_overfitting() -> None:
    accuracy = [(n * 10.0, 0.9 - 0.03 * abs(n - 6)) for n in range(20)]
    (reading,) = read_curves(exponential(), accuracy, mode="max")
    assert (reading.kind, reading.began) == (CurveKind.OVERFITTING, 60)
    assert reading.numbers["best"] == pytest.approx(0.9)
    assert kinds(exponential(), accuracy) != [CurveKind.OVERFITTING]


def test_validation_that_rises_while_training_learns_nothing_more_is_not_called_overfitting() -> None:
    rises = [(n * 10.0, 0.5 + max(0.0, 8.0 - n) / 8 + max(0, n - 8) * 0.02) for n in range(20)]
    level = [(n * 10.0, 0.4 + max(0.0, 6.0 - n) / 6) for n in range(20)]
    by_heart = [(step, value - 0.3999) for step, value in level]
    assert CurveKind.OVERFITTING not in kinds(level, rises)
    assert kinds(by_heart, rises) == [CurveKind.OVERFITTING], "nothing more can be learned of a loss of nearly zero"
    assert kinds(exponential(), rises) == [CurveKind.OVERFITTING]


def test_the_direction_must_be_one() -> None:
    with pytest.raises(ValueError, match='"min" or "max"'):
        read_curves(exponential(), mode="up")
    with pytest.raises(ValueError, match="positive loss"):
        read_curves(exponential(), reference=0.0)


def test_what_nothing_reaches_is_told_by_the_reference() -> None:
    flat = [(float(n), 0.25 + 0.01 * (n % 2)) for n in range(20)]
    assert kinds(flat) == [CurveKind.UNDERFITTING]
    assert kinds(flat, reference=math.log(10)) == [CurveKind.FLAT]


def test_nan_at_the_end_is_named_and_one_that_recovers_is_not() -> None:
    points = exponential()
    (reading,) = read_curves([*points[:15], *((step, math.nan) for step, _ in points[15:])])
    assert (reading.kind, reading.began) == (CurveKind.DIVERGING, 150)
    assert kinds([*points[:10], (100.0, math.nan), *points[11:]]) == [CurveKind.HEALTHY]
    assert kinds([(float(n), math.nan) for n in range(3)]) == [CurveKind.DIVERGING]


@pytest.mark.parametrize("points", [0, 1, 4])
def test_few_points_say_nothing(points: int) -> None:
    assert kinds(exponential()[:points]) == [CurveKind.TOO_SHORT]


def test_a_rate_that_falls_smoothly_makes_no_drop() -> None:
    cosine = [(step, 0.1 * (1 + math.cos(math.pi * step / 200))) for step, _ in exponential()]
    assert CurveKind.DROP not in kinds(exponential(), rates=cosine)


def test_two_drops_are_two() -> None:
    levels = [(0, 1.0, 0.1), (40, 0.5, 0.01), (80, 0.25, 0.001)]
    points, rates = [], []
    for n in range(120):
        _, level, rate = [each for each in levels if each[0] <= n][-1]
        points.append((float(n), level + math.exp(-n)))
        rates.append((float(n), rate))
    drops = [reading for reading in read_curves(points, rates=rates) if reading.kind is CurveKind.DROP]
    assert [reading.began for reading in drops] == [40, 80]


# -- the log of a run ------------------------------------------------------------------------------------


def told(count: int, tensors: bool) -> CurveLog:
    with loopkit.watch(skip=["console"]) as run:
        total = torch.zeros(())
        for n in range(count):
            total += 1
            loopkit.log("train/loss", total if tensors else float(n + 1), step=n)
    return run.instrument(CurveLog)


@pytest.mark.parametrize("tensors", [False, True])
def test_each_number_is_kept_once_with_the_value_it_had(tensors: bool) -> None:
    curve = told(200, tensors).curve("train/loss")
    assert curve == [(float(n), n + 1.0) for n in range(200)]


def test_a_long_run_keeps_a_part_of_them() -> None:
    curve = told(20_000, tensors=False).curve("train/loss")
    assert 2000 <= len(curve) <= 4096
    assert curve[0] == (0.0, 1.0)
    assert curve[-1][0] >= 19_990
    assert len({b[0] - a[0] for a, b in pairwise(curve)}) == 1


def test_of_trainings_one_after_another_the_last_is_kept() -> None:
    weights = [torch.nn.Parameter(torch.ones(())) for _ in range(3)]
    optimizers = [torch.optim.SGD([each], lr=0.1) for each in weights]
    with loopkit.watch(skip=["console"]) as run:
        for n, stepping in enumerate(((0,), (0,), (0, 1), (1,), (2,), (2,))):
            for each in stepping:
                weights[each].grad = torch.ones(())
                optimizers[each].step()
            loopkit.log("train/loss", float(n), step=n)
    log = run.instrument(CurveLog)
    assert log.curve("train/loss") == [(4.0, 4.0), (5.0, 5.0)], "the second came while the first still stepped"
    assert log.since == 4


def test_no_graph_is_kept_alive() -> None:
    weight = torch.ones((), requires_grad=True)
    with loopkit.watch(skip=["console"]) as run:
        loopkit.log("train/loss", weight * 2, step=1)
        log = run.instrument(CurveLog)
        assert not any(value.requires_grad for _, _, value in log._waiting)
    assert log.curve("train/loss") == [(1.0, 2.0)]


def test_reading_curves_needs_no_torch() -> None:
    code = (
        "import sys\nfrom loopkit import read_curves\nread_curves([(n, 1 / (n + 1)) for n in range(9)])\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# -- the example -----------------------------------------------------------------------------------------


def test_the_gallery_is_diagnosed_by_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import curves  # type: ignore[import-not-found,unused-ignore]

    assert [setting.name for setting in curves.GALLERY] == ["overfitting", "underfitting", "erratic", "healthy"]
    for setting in curves.GALLERY:
        assert [str(reading.kind) for reading in curves.diagnose(setting)] == [setting.name]
