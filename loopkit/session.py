"""The watch around a `Loop`: who hears it, what its plugins have to remember, and how they may end it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from loopkit.errors import StopTraining
from loopkit.logbook import History, Keeps
from loopkit.run import Run
from loopkit.watching import Watch, current_run


class Session:
    """Opens a watch for each run of a Loop, or joins the one that is open.

    Args:
        history: what every logged number is written to.
        plugins, autoload, skip: as `watch` takes them.

    Attributes:
        run: the run that is watched now, or None.
        heard: somebody besides the history listens. Where nobody does, torch is not listened to.
    """

    def __init__(self, history: History, plugins: Sequence[Any], *, autoload: bool, skip: Iterable[str]) -> None:
        self.run: Run | None = None
        self.heard = True
        self.log: Callable[[str, Any, int], None] = history.add
        self._straight = self.log
        self._plugins, self._autoload, self._skip = [Keeps(history), *plugins], autoload, skip
        self._states: dict[str, Any] = {}

    @contextlib.contextmanager
    def open(self, loop: Any) -> Iterator[Run]:
        """A watch in which plugins may stop `loop`; inside a run of it, the one that is open."""
        if self.run is not None:
            yield self.run
            return
        alone = current_run() is None
        self.heard = not alone or self._autoload or len(self._plugins) > 1
        options: dict[str, Any] = {"autoload": self._autoload, "skip": self._skip}
        watch = Watch(plugins=self._plugins, taps_if=lambda run: self.heard, **options)
        with contextlib.ExitStack() as after, watch as run:
            before = run.loop, run.stops_softly, run.stopping, run.step_offset
            run.loop, run.stops_softly, run.stopping, run.step_offset = loop, True, None, loop.updates - run.steps
            # A run lives until cycles are collected: a loader that it held would then wait 5 s for each worker.
            after.callback(setattr, run, "loop", before[0])
            self.run, loop.stopped = run, None
            self.log = run.log if self.heard else self._straight
            try:
                self._hand_out(run)
                yield run
            except StopTraining as request:
                run.stopping = request.reason
                raise
            finally:
                self._states |= _states(run)
                self.run, self.log, loop.stopped = None, self._straight, run.stopping
                if run.stopping is not None:
                    run.ending = "stopped"
                if not alone:  # what comes after the loop goes on
                    _, run.stops_softly, run.stopping, run.step_offset = before

    def plugin_states(self) -> dict[str, Any]:
        """What each plugin has to remember, by its name: now, or when the last run ended."""
        return self._states | (_states(self.run) if self.run is not None else {})

    def load(self, states: Mapping[str, Any]) -> None:
        """Hand these to the plugins of these names when the next run begins."""
        self._states = dict(states)

    def _hand_out(self, run: Run) -> None:
        for name, plugin in run.manager.plugins():
            load = getattr(plugin, "load_state_dict", None)
            if name in self._states and callable(load):
                load(self._states[name])


def _states(run: Run) -> dict[str, Any]:
    """The states of plugins that have one and can take it back."""
    return {
        name: plugin.state_dict()  # type: ignore[attr-defined]
        for name, plugin in run.manager.plugins()
        if all(callable(getattr(plugin, each, None)) for each in ("state_dict", "load_state_dict"))
    }
