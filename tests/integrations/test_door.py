"""A door that nobody closes, and one whose trainer tells of no exception."""

from __future__ import annotations

from pathlib import Path

import pytest

import loopkit
from loopkit import Door
from tests.cli.command import BUG, python
from tests.loops import textbook


def test_a_process_that_ends_with_an_open_door_reports(tmp_path: Path) -> None:
    script = f"import loopkit\nloopkit.Door().open()\n{BUG}\nraise ValueError('mine')\n"
    (tmp_path / "train.py").write_text(script)
    done = python("train.py", cwd=tmp_path)
    assert done.code == 1
    assert done.err.count("missing-zero-grad  (proof") == 1
    assert done.err.count("optimizer steps watched") == 1
    assert "ValueError: mine" in done.err


def test_a_door_that_was_left_open_is_closed_by_the_next_opening() -> None:
    door = Door(skip=["console"])
    door.open()
    first = door.run
    textbook()
    door.open()
    assert first is not None
    assert first.ending == "failed"
    assert loopkit.current_run() is door.run is not first
    door.close()
    door.close()
    assert loopkit.current_run() is None


class Trainer:
    """Tells nobody of exceptions."""

    def fit(self) -> None:
        raise ValueError("mine")


def test_an_exception_that_leaves_a_method_closes_the_door() -> None:
    door, trainer = Door(skip=["console"]), Trainer()
    door.open()
    door.close_if_it_raises(trainer, "fit")
    assert vars(trainer)
    with pytest.raises(ValueError, match="mine") as raised:
        trainer.fit()
    assert loopkit.current_run() is None
    assert vars(trainer) == {}
    assert [entry.name for entry in raised.traceback] == [
        "test_an_exception_that_leaves_a_method_closes_the_door",
        "fit",
    ]


def test_what_somebody_put_in_its_place_stays() -> None:
    door, trainer = Door(skip=["console"]), Trainer()
    door.open()
    door.close_if_it_raises(trainer, "fit")
    theirs = vars(trainer)["fit"] = lambda: None
    door.close()
    assert vars(trainer) == {"fit": theirs}
