"""The progress bar: what it shows, when it is quiet, how rarely it reads the device."""

from __future__ import annotations

import importlib
import io
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import loopkit
from loopkit import UsageError
from loopkit_plugins.control import Progress
from tests.control.test_evaluations import data, epoch
from tests.loops import adamw, model


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _shown(plugin: Progress, epochs: int = 2) -> None:
    net, train, val = model(), data(12), data(8)
    optimizer = adamw(net)
    with loopkit.watch(plugins=[plugin], autoload=False) as run:
        for _ in range(epochs):
            epoch(net, optimizer, train)
            with torch.no_grad():
                for x, y in val:
                    F.mse_loss(net(x), y)
    assert not run.failures


def test_batches_loss_and_validation_are_shown_a_bar_a_pass() -> None:
    stream = Terminal()
    _shown(Progress(every=1, stream=stream))
    text = stream.getvalue()
    assert "epoch 1: 100%" in text
    assert "epoch 2: 100%" in text
    assert "3/3" in text
    assert "loss=" in text
    assert "val/loss=" in text


def test_where_the_epochs_are_known_there_is_one_bar() -> None:
    stream = Terminal()
    _shown(Progress(epochs=2, stream=stream))
    assert "6/6" in stream.getvalue()
    assert "/3 " not in stream.getvalue()


def test_it_is_quiet_where_nobody_looks() -> None:
    stream = io.StringIO()
    _shown(Progress(stream=stream))
    assert stream.getvalue() == ""


def test_without_tqdm_it_says_once_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = importlib.import_module

    def missing(name: str, package: str | None = None) -> Any:
        if name == "tqdm":
            raise ImportError(name)
        return own(name, package)

    monkeypatch.setattr(importlib, "import_module", missing)
    stream = Terminal()
    _shown(Progress(stream=stream))
    assert stream.getvalue() == ""
    assert capsys.readouterr().err.count("pip install 'torch-loopkit[progress]'") == 1


def test_the_loss_is_read_every_so_many_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    own = torch.Tensor.__float__

    def read(self: torch.Tensor) -> float:
        if sys._getframe(1).f_code.co_filename.endswith("progress.py"):
            reads.append(1)
        return own(self)

    monkeypatch.setattr(torch.Tensor, "__float__", read)
    _shown(Progress(every=4, stream=Terminal()))
    assert len(reads) == 2 + 2  # batches 1 and 5 of 6, and two evaluations
    with pytest.raises(UsageError, match="every"):
        Progress(every=0)
