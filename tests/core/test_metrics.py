"""`loopkit.log` and `Run.stop`."""

from __future__ import annotations

from typing import Any

import pytest

import loopkit
from loopkit import Run, StopTraining, hookimpl
from loopkit.ending import Ending


class Hears:
    def __init__(self) -> None:
        self.numbers: list[tuple[str, Any, int]] = []

    @hookimpl
    def metric_logged(self, name: str, value: Any, step: int) -> None:
        self.numbers.append((name, value, step))


def test_a_number_reaches_plugins_with_its_step() -> None:
    hears = Hears()
    with loopkit.watch(plugins=[hears], skip=["console"]):
        loopkit.log("val/loss", 0.5)
        loopkit.log("val/loss", 0.25, step=7)
    assert hears.numbers == [("val/loss", 0.5, 0), ("val/loss", 0.25, 7)]


def test_without_a_watch_nothing_happens() -> None:
    loopkit.log("val/loss", 0.5)


class Stops:
    @hookimpl
    def metric_logged(self, run: Run) -> None:
        run.stop("enough")


def test_a_plugin_stops_the_loop_at_once() -> None:
    with loopkit.watch(plugins=[Stops()], skip=["console"]):
        loopkit.log("val/loss", 0.5)
        pytest.fail("the loop went on")


def test_where_the_loop_ends_softly_it_is_only_told() -> None:
    with loopkit.watch(plugins=[Stops()], skip=["console"]) as run:
        run.stops_softly = True
        loopkit.log("val/loss", 0.5)
        assert run.stopping == "enough"
    with pytest.raises(StopTraining):
        Ending().stop("why")
