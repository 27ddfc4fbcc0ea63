"""A progress bar, of tqdm."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sized
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

import torch

from loopkit import UsageError, hookimpl

if TYPE_CHECKING:
    from loopkit import Run

_INSTALL = "Progress shows nothing: tqdm is not installed (pip install 'torch-loopkit[progress]')"


class Progress:
    """Shows how far training is: batches trained on, the loss, the rate, and when it will end.

    Where the number of epochs is known there is one bar for the whole run; else one for each pass over the loader. It
    is quiet where stderr is no terminal, and where tqdm is missing, which is said once.

    Args:
        epochs: passes over the training loader; None where it is not known, or a `Loop` knows it.
        every: batches between two readings of the loss, at least 1: each waits for the device.
        stream: where to draw; None for stderr.

    Raises:
        UsageError: `every` is less than 1.
    """

    def __init__(self, epochs: int | None = None, every: int = 10, stream: TextIO | None = None) -> None:
        if every < 1:
            raise UsageError(f"Progress: every is 1 or more, not {every}")
        self.epochs = epochs
        self.every = every
        self._stream = stream
        self._make: Any = None
        self._bar: Any = None
        self._loader: Any = None
        self._passes = 0
        self._batches = 0
        self._fresh = False
        self._shown: dict[str, str] = {}

    @hookimpl
    def run_started(self, run: Run) -> None:
        """Find out whether there is anything to draw on, and with."""
        self._make, self._batches, self._passes = None, 0, 0
        stream = self._stream or sys.stderr
        if not (hasattr(stream, "isatty") and stream.isatty()):
            return
        try:
            self._make = importlib.import_module("tqdm").tqdm
        except ImportError:
            run.say(_INSTALL)

    @hookimpl
    def batch_loaded(self, loader: Any) -> None:
        """A batch came: whether it is trained on, a backward says."""
        if self._make is not None:
            self._loader, self._fresh = loader, True

    @hookimpl
    def before_backward(self, run: Run, loss: Any) -> None:
        """A batch is trained on; several backwards of one batch count once."""
        if self._make is None or not (self._fresh or self._loader is None):
            return
        self._fresh = False
        self._open(run)
        self._batches += 1
        if self._batches % self.every == 1 or self.every == 1:
            if isinstance(loss, torch.Tensor) and loss.numel() == 1:
                self._shown["loss"] = f"{float(loss.detach()):.4g}"
            self._bar.set_postfix(self._shown, refresh=False)
        self._bar.update(1)

    @hookimpl
    def metric_logged(self, name: str, value: Any) -> None:
        """Show what evaluations say: read at once, since an evaluation waits for the device anyhow."""
        if self._make is not None and name.startswith("val/"):
            self._shown[name] = f"{float(value):.4g}"

    @hookimpl
    def run_finished(self) -> None:
        """Leave the last bar as it is."""
        self._close()
        self._loader = self._make = None

    def _open(self, run: Run) -> None:
        epochs = self.epochs or getattr(run.loop, "epochs", None)
        new_pass = run.passes != self._passes
        if self._bar is not None and new_pass and epochs is None:
            self._close()
        self._passes = run.passes
        if self._bar is not None:
            if new_pass:
                self._bar.set_description(f"epoch {self._passes + 1}", refresh=False)
            return
        length = None
        if isinstance(self._loader, Sized):
            with suppress(TypeError):  # a loader over a stream
                length = len(self._loader) * (epochs or 1)
        name = f"epoch {self._passes + 1}" if self._loader is not None else "training"
        stream = self._stream or sys.stderr
        self._bar = self._make(total=length, desc=name, unit="batch", file=stream, dynamic_ncols=True)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
