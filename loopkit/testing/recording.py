"""Writing down what a run tells its checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from loopkit.hookspecs import hookimpl
from loopkit.testing.stream import Stream
from loopkit.update import Update

if TYPE_CHECKING:
    from loopkit.run import Run


class Recorder:
    """A plugin that keeps the updates of a run: `watch(plugins=[recorder])`, and then `recorder.stream()`."""

    def __init__(self) -> None:
        self._updates: list[Update] = []
        self._open: Update | None = None

    @hookimpl
    def update_finished(self, update: Update) -> None:
        """Keep it: an update is plain data."""
        self._updates.append(update)

    @hookimpl
    def run_finished(self, run: Run) -> None:
        """Keep what was not stepped."""
        self._open = run.open_update()

    def stream(self) -> Stream:
        """What was told so far."""
        return Stream(tuple(self._updates), self._open)


def record(loop: Callable[[], object]) -> Stream:
    """Run a function under a watch of its own and give what checks were told: to be kept with
    `path.write_text(stream.to_json())`, and given to a check with `replay`.
    """
    from loopkit.testing.watchedloop import watch_loop  # torch

    recorder = Recorder()
    watch_loop(loop, plugins=[recorder], autoload=False)
    return recorder.stream()
