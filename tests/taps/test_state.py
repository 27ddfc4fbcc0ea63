"""Saving and loading: each call is one event, and nothing of the objects is kept."""

from __future__ import annotations

import gc
import io
import threading
import weakref
from typing import Any

import torch
from torch import nn

import loopkit
from loopkit import Checkpoints, PartKind, SavedPart, Site, hookimpl, part_of
from tests.loops import adamw, batches, loss_of, model


class States:
    """Writes down the events of saving and loading."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.outcomes: list[Any] = []

    @hookimpl
    def state_saved(self, state: Any, file: Any, site: Site) -> None:
        self.seen.append("saved")

    @hookimpl
    def state_read(self, state: Any, file: Any, site: Site) -> None:
        self.seen.append("read")

    @hookimpl
    def state_taken(self, owner: nn.Module, state: Any, site: Site) -> None:
        self.seen.append(f"taken {type(owner).__name__}")

    @hookimpl
    def state_loaded(self, owner: Any, state: Any, outcome: Any, site: Site) -> None:
        self.seen.append(f"loaded {type(owner).__name__}")
        self.outcomes.append(outcome)


def trained() -> tuple[nn.Module, torch.optim.Optimizer, Any]:
    net = model()
    optimizer = adamw(net)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    for x, y in batches(3):
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()
        scheduler.step()
    return net, optimizer, scheduler


def test_each_call_is_one_event() -> None:
    heard = States()
    with loopkit.watch(plugins=[heard], autoload=False):
        net, optimizer, scheduler = trained()
        file = io.BytesIO()
        state = {"a": net.state_dict(), "b": optimizer.state_dict(), "c": scheduler.state_dict()}
        torch.save(state, file)
        file.seek(0)
        state = torch.load(file)
        nn.DataParallel(net).load_state_dict({f"module.{key}": value for key, value in state["a"].items()})
        optimizer.load_state_dict(state["b"])
        scheduler.load_state_dict(state["c"])
        torch.amp.GradScaler("cpu").load_state_dict(torch.amp.GradScaler("cpu").state_dict())
    told = ["loaded DataParallel", "loaded AdamW", "loaded LambdaLR", "loaded GradScaler"]
    assert heard.seen == ["taken Sequential", "saved", "read", *told]
    assert not any(heard.outcomes[0])
    assert heard.outcomes[1] == [[]]


def test_samples_and_other_threads_are_no_events() -> None:
    """A thread that reads files ahead must not become the one that is watched."""
    heard = States()
    file = io.BytesIO()
    torch.save(torch.ones(3), file)
    file.seek(0)
    with loopkit.watch(plugins=[heard], autoload=False) as run:
        thread = threading.Thread(target=lambda: torch.load(file))
        thread.start()
        thread.join()
        assert heard.seen == []
        trained()
        assert run.steps == 3


def test_nothing_of_a_checkpoint_is_kept() -> None:
    with loopkit.watch(skip=["console"]) as run:
        net, optimizer, _ = trained()
        file = io.BytesIO()
        torch.save({"model": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 2}, file)
        file.seek(0)
        state = torch.load(file)
        net.load_state_dict(state["model"])
        tensor = weakref.ref(state["model"]["0.weight"])
        assert len(run.instrument(Checkpoints).reads) == 1
        del state
        gc.collect()
        assert tensor() is None
    assert not run.failures


def test_the_parts_of_a_checkpoint() -> None:
    book = Checkpoints()
    with loopkit.watch(autoload=False, plugins=[heard := _Places()]):
        net, optimizer, scheduler = trained()
        net.state_dict()
        state = {
            "nested": {"model": net.state_dict(), "optimizers": [optimizer.state_dict()]},
            "sched": scheduler.state_dict(),
            "scaler": {"scale": 1.0, "growth_factor": 2.0},
            "epoch": 3,
            "name": "x",
        }
        book.read(state, "file", heard.site)
        (read,) = book.reads
        live = part_of(optimizer)
    kinds = {part.name: part.kind for part in read.parts}
    assert kinds == {
        "model": PartKind.MODEL,
        "optimizers": PartKind.OPTIMIZER,
        "sched": PartKind.SCHEDULER,
        "scaler": PartKind.SCALER,
    }
    saved = {part.name: part for part in read.parts}
    assert read.counters == ("epoch",)
    assert saved["sched"].progress == 3
    assert saved["optimizers"].progress == 3
    assert SavedPart("", live.kind, live.progress, live.size, live.remembers, live.settings) == SavedPart(
        "", PartKind.OPTIMIZER, 3, 4, saved["optimizers"].remembers, saved["optimizers"].settings
    )


class _Places:
    site: Site

    @hookimpl
    def state_taken(self, site: Site) -> None:
        self.site = site
