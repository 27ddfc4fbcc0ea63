"""Ignite's handler."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import loopkit
from loopkit.integrations.ignite import LoopkitHandler
from tests.integrations.doors import found, one, quiet, trains_alike
from tests.loops import adamw, loss_of, model
from tests.watched import line_of


def trained(
    *handlers: LoopkitHandler, bug: bool = False, fails: bool = False, caught: list[Any] | None = None
) -> nn.Module:
    from ignite.engine import Engine, Events

    net = model()
    optimizer = adamw(net)

    def update(engine: Any, batch: Any) -> None:
        x, y = batch
        if not bug:
            optimizer.zero_grad()
        loss = loss_of(net(x), y)
        loss.backward()  # adds
        if fails:
            raise ValueError("mine")
        optimizer.step()

    engine = Engine(update)
    for handler in handlers:
        handler.attach(engine)
    if caught is not None:
        engine.add_event_handler(Events.EXCEPTION_RAISED, lambda engine, error: caught.append(error))
    features = torch.randn(16, 4)
    engine.run(DataLoader(TensorDataset(features, features[:, :2].clone()), batch_size=4), max_epochs=2)
    return net


def test_a_correct_training_is_silent() -> None:
    handler = LoopkitHandler(**quiet())
    trained(handler)
    assert found(handler.door) == []
    assert handler.door.run is not None
    assert handler.door.run.steps == 8


def test_a_bug_is_found_once_at_its_line() -> None:
    handler = LoopkitHandler(**quiet())
    trained(handler, bug=True)
    one(handler.door, "missing-zero-grad", line_of(trained, "# adds"))


def test_weights_are_the_same_bit_for_bit() -> None:
    trains_alike(lambda watched: trained(*([LoopkitHandler(**quiet())] if watched else [])))


def test_an_exception_closes_the_watch_and_passes() -> None:
    handler = LoopkitHandler(**quiet())
    with pytest.raises(ValueError, match="mine"):
        trained(handler, fails=True)
    found(handler.door)
    assert handler.door.run is not None
    assert handler.door.run.ending == "failed"


def test_an_exception_that_others_handle_is_still_theirs() -> None:
    bare: list[Any] = []
    trained(fails=True, caught=bare)
    watched: list[Any] = []
    handler = LoopkitHandler(**quiet())
    trained(handler, fails=True, caught=watched)
    assert [str(error) for error in watched] == [str(error) for error in bare]
    found(handler.door)


def test_inside_an_open_watch_it_joins(capsys: pytest.CaptureFixture[str]) -> None:
    handler = LoopkitHandler()
    with loopkit.watch() as run:
        trained(handler, bug=True)
        assert loopkit.current_run() is run
    said = capsys.readouterr().err
    assert said.count("missing-zero-grad  (proof") == 1
    assert said.count("optimizer steps watched") == 1
