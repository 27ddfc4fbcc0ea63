"""HF Trainer's callback: a bug is found once, a correct training is silent and the same bit for bit."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

import loopkit
from loopkit.integrations.transformers import LoopkitCallback
from tests.frameworks.test_bugs import hf_with
from tests.frameworks.trainers import Net, Rows, hf_arguments
from tests.integrations.doors import found, one, quiet, trains_alike
from tests.watched import line_of


def trained(folder: Path, callback: Any = None, trainer_class: Any = None, steps: int = 4) -> Net:
    from transformers import Trainer

    net = Net()
    callbacks = [callback] if callback else []
    kind = trainer_class or Trainer
    trainer = kind(model=net, args=hf_arguments(str(folder), steps=steps), train_dataset=Rows(), callbacks=callbacks)
    before = dict(vars(trainer))
    try:
        trainer.train()
    finally:
        left = {name for name, value in vars(trainer).items() if callable(value)}
        assert left == {name for name, value in before.items() if callable(value)}, "the trainer is left as it was"
    return net


def test_a_correct_training_is_silent(tmp_path: Path) -> None:
    callback = LoopkitCallback(**quiet())
    trained(tmp_path, callback)
    assert found(callback.door) == []
    assert callback.door.run is not None
    assert callback.door.run.steps == 4


@pytest.mark.parametrize(
    ("bug", "text"), [("zero-grad-before-step", "zero_grad()  # user's"), ("step-without-fresh-grad", None)]
)
def test_a_bug_is_found_once_at_its_line(tmp_path: Path, bug: str, text: str | None) -> None:
    callback = LoopkitCallback(**quiet())
    trained(tmp_path, callback, hf_with(bug))
    one(callback.door, bug, line_of(hf_with, text) if text else line_of(trained, "trainer.train()"))


def test_weights_are_the_same_bit_for_bit(tmp_path: Path) -> None:
    trains_alike(lambda watched: trained(tmp_path, LoopkitCallback(**quiet()) if watched else None))


def test_two_trainings_are_two_runs(tmp_path: Path) -> None:
    callback = LoopkitCallback(**quiet())
    trained(tmp_path, callback)
    first = callback.door.run
    trained(tmp_path, callback, steps=2)
    assert callback.door.run is not first
    assert callback.door.run is not None
    assert callback.door.run.steps == 2


def test_an_exception_in_training_closes_the_watch(tmp_path: Path) -> None:
    from transformers import Trainer

    class Fails(Trainer):
        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            if self.state.global_step == 2:
                raise ValueError("mine")
            return super().training_step(*args, **kwargs)

    callback = LoopkitCallback(**quiet())
    with pytest.raises(ValueError, match="mine") as raised:
        trained(tmp_path, callback, Fails)
    assert found(callback.door) == []
    assert callback.door.run is not None
    assert callback.door.run.ending == "failed"
    assert "door.py" not in {entry.path.name for entry in raised.traceback if hasattr(entry.path, "name")}


def test_an_exception_at_the_end_closes_the_watch(tmp_path: Path) -> None:
    from transformers import Trainer

    class Fails(Trainer):
        def log(self, *args: Any, **kwargs: Any) -> None:
            raise ValueError("mine")

    callback = LoopkitCallback(**quiet())
    with pytest.raises(ValueError, match="mine"):
        trained(tmp_path, callback, Fails)
    assert found(callback.door) == []


def test_inside_an_open_watch_it_joins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    callback = LoopkitCallback()
    with loopkit.watch() as run:
        trained(tmp_path, callback, hf_with("zero-grad-before-step"))
        assert loopkit.current_run() is run
        assert callback.door.run is run
    said = capsys.readouterr().err
    assert said.count("zero-grad-before-step  (proof") == 1
    assert said.count("optimizer steps watched") == 1


def test_in_a_run_that_leaves_the_console_out_it_brings_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with loopkit.watch(skip=["console"]):
        trained(tmp_path, LoopkitCallback(), hf_with("zero-grad-before-step"))
    assert capsys.readouterr().err == ""


def test_a_plugin_may_stop_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Enough:
        @loopkit.hookimpl
        def after_step(self, run: loopkit.Run) -> None:
            if run.steps == 2:
                run.stop("enough")

    callback = LoopkitCallback(**quiet(plugins=[Enough()]))
    trained(tmp_path, callback)
    assert callback.door.run is not None
    assert callback.door.run.steps == 3  # Accelerate had read a batch ahead
    assert "stopping: enough" in capsys.readouterr().err


def test_what_is_named_wrong_is_refused_at_once() -> None:
    with pytest.raises(loopkit.UsageError, match="missing-zero-grad"):
        LoopkitCallback(ignore=["mising-zero-grad"])


def test_it_can_be_pickled_with_a_trainer() -> None:
    assert isinstance(pickle.loads(pickle.dumps(LoopkitCallback())), LoopkitCallback)
