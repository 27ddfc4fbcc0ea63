"""Writing off the training thread: a bounded queue, one thread, one event file."""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from loopkit import UsageError

_WAITING = 1_000
"""Entries that may wait to be written; what comes on top of them is dropped and counted."""
_PATIENCE = 30.0
"""Seconds that the end of a run waits for a disk."""
_END = object()


class _Entry(NamedTuple):
    """Something to write: how to make a `Summary` of it, on the writing thread, and where it belongs."""

    make: Callable[[], Any]
    step: int
    time: float


def require() -> None:
    """Make sure that TensorBoard is there.

    Raises:
        UsageError: it is not installed.
    """
    try:
        importlib.import_module("torch.utils.tensorboard.summary")
        importlib.import_module("tensorboard.summary.writer.record_writer")
    except ImportError as error:
        raise UsageError(
            f"TensorBoard cannot be imported ({error}): pip install 'torch-loopkit[tensorboard]'"
        ) from None


def claim(folder: Path) -> Path:
    """The folder a new run writes to: `folder`, or a new one in it (`run-2`) where a run is already.

    Raises:
        UsageError: nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        number = 1
        while any((place := folder if number == 1 else folder / f"run-{number}").glob("events.out.tfevents.*")):
            number += 1
        place.mkdir(exist_ok=True)
        trial = place / f".loopkit.{os.getpid()}"
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise UsageError(f"cannot write TensorBoard's log to {str(folder)!r}: {error.strerror or error}") from None
    return place


class Writer:
    """Writes one event file. Begins at once, ends with `close` or with the process.

    The file is written by TensorBoard's `RecordWriter` itself: the thread inside its event writer would
    print a traceback into the user's terminal when the disk is full.

    Attributes:
        dropped: entries that found no room in the queue.
        error: what ended the writing early.
    """

    def __init__(self, folder: Path) -> None:
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.loopkit"
        self.folder = folder
        self.dropped = 0
        self.error: Exception | None = None
        self._path = folder / name
        self._process = os.getpid()
        self._queue: queue.Queue[Any] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._work, name="loopkit-tensorboard", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def add(self, step: int, make: Callable[[], Any]) -> None:
        """Write what `make` returns, a `Summary`; `make` runs on the writing thread and may hold no live tensor."""
        if self.error is not None or os.getpid() != self._process:
            return
        try:
            self._queue.put_nowait(_Entry(make, step, time.time()))
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Write what waits, and end. In a forked child, which has no such thread, nothing."""
        if os.getpid() != self._process or not self._thread.is_alive():
            return
        atexit.unregister(self.close)
        try:
            self._queue.put(_END, timeout=_PATIENCE)
        except queue.Full:
            pass
        else:
            self._thread.join(_PATIENCE)
        if self._thread.is_alive():
            self._say(f"{self.folder} takes no more; what was not written within {_PATIENCE:.0f} s is lost")
        elif self.dropped:
            self._say(f"{self.dropped} entries were dropped: {self.folder} did not keep up")

    def _work(self) -> None:
        """Write until told to end; after an error, only empty the queue."""
        try:
            with self._path.open("wb") as file:
                self._records(file)
        except Exception as error:  # noqa: BLE001 - a full disk, or what cannot be written: training goes on
            self.error = error
            self._say(f"cannot write to {self.folder}: {error}; training goes on, and no more is written there")
            while self._queue.get() is not _END:
                pass

    def _records(self, file: Any) -> None:
        events: Any = importlib.import_module("tensorboard.compat.proto.event_pb2")
        records: Any = importlib.import_module("tensorboard.summary.writer.record_writer").RecordWriter(file)
        records.write(events.Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
        file.flush()
        while (entry := self._queue.get()) is not _END:
            event = events.Event(wall_time=entry.time, step=entry.step, summary=entry.make())
            records.write(event.SerializeToString())
            file.flush()

    @staticmethod
    def _say(text: str) -> None:
        try:
            print(f"loopkit: TensorBoard: {text}", file=sys.stderr)
        except (OSError, ValueError):
            pass  # stderr is gone
