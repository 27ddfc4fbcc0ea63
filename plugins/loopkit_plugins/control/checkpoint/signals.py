"""SIGINT and SIGTERM: finish the step, write, leave."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loopkit import Run

_TAKEN = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """Takes the signals while a run goes on.

    Args:
        write: called before leaving.
    """

    def __init__(self, write: Callable[[Run], None]) -> None:
        self._write = write
        self._run: Run | None = None
        self._before: dict[int, Any] = {}
        self._process = 0
        self._came = 0
        self._held = False
        self._schedules = False
        self._behind = False

    def install(self, run: Run) -> None:
        """Take them, where this is the main thread: Python lets no other have signals."""
        if threading.current_thread() is not threading.main_thread() or self._before:
            return
        self._run, self._process, self._came = run, os.getpid(), 0
        for number in _TAKEN:
            before = signal.getsignal(number)
            if before is not None and before is not signal.SIG_IGN:  # as of a background job, on Ctrl-C
                self._before[number] = before
                signal.signal(number, self._take)

    def undo(self) -> None:
        """Let signals be as they were, unless somebody has taken them meanwhile."""
        for number, before in self._before.items():
            if signal.getsignal(number) == self._take:
                signal.signal(number, before)
        self._before = {}
        self._run = None

    def follow(self, run: Run) -> None:
        """The moment to leave, if a signal came."""
        if self._came and not self._held:
            self._leave(run)

    def stepped(self) -> None:
        """A step was executed: in a loop whose scheduler advances after each, the update is not over."""
        self._behind = self._schedules

    def advanced(self) -> None:
        """A scheduler advanced."""
        self._schedules, self._behind = True, False

    def begins_anew(self) -> None:
        """The next update begins; a scheduler that has not advanced by now does so once an epoch."""
        if self._behind:
            self._schedules = self._behind = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """While a checkpoint is written, a signal waits for it."""
        before, self._held = self._held, True
        try:
            yield
        finally:
            self._held = before

    def _take(self, number: int, frame: FrameType | None) -> None:
        run = self._run
        first, self._came = not self._came, number
        if run is None or not first or os.getpid() != self._process:  # also in a worker, which inherits this
            self.undo()
            os.kill(os.getpid(), number)
            return
        if self._held or run.busy or self._behind or run.has_loop or _in_a_step(run):
            run.say(f"{signal.Signals(number).name}: leaving after this step; once more to leave at once")
        else:
            self._leave(run)

    def _leave(self, run: Run) -> None:
        number, self._came = self._came, 0
        self.undo()
        self._write(run)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)


def _in_a_step(run: Run) -> bool:
    """Whether gradients wait for a step: one is to be finished."""
    update = run.open_update()
    return update is not None and any(event.kind == "backward" for event in update.events)
