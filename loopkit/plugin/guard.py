"""What is registered in a plugin's stead: its implementations, each with a guard around it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from loopkit.errors import StopTraining
from loopkit.finding import Finding
from loopkit.plugin import fit
from loopkit.plugin.ours import is_ours

if TYPE_CHECKING:
    from loopkit.manager import Manager

clock = time.perf_counter_ns

_SELDOM = frozenset(
    {
        "run_started",
        "update_finished",
        "finding_reported",
        "epoch_started",
        "epoch_finished",
        "evaluation_started",
        "evaluation_finished",
        "loader_started",
        "loader_exhausted",
        "state_saved",
        "state_read",
        "state_taken",
        "state_loaded",
        "generator_seeded",
    }
)
"""Hooks that an ordinary update does not call: there even our own plugins are timed. Not at the end: the run's clock
has stopped by then, and whoever first needs what all share would be blamed for it."""


class Guard:
    """A plugin as pluggy sees it.

    Args:
        plugin: it.
        manager: told when it fails, or asks for the end of training.

    Attributes:
        name: what it is called.
        spent_ns: how long it took in the hooks that are timed: all of a stranger's, of ours those called seldom.

    Raises:
        PluginError: it implements no hook, one that does not exist, or as a wrapper.
    """

    def __init__(self, plugin: object, manager: Manager) -> None:
        self.plugin = plugin
        self.name = ""
        self.spent_ns = 0
        self._manager = manager
        ours = is_ours(plugin)
        for name, hook in fit.hooks_of(plugin).items():
            function = getattr(plugin, name)
            guarded = self._guarded(hook, function)
            if manager.trace is not None:
                guarded = self._traced(guarded, function)
            if not ours or hook in _SELDOM:
                guarded = self._timed(guarded, function)
            setattr(self, name, guarded)

    def _guarded(self, hook: str, function: Callable[..., Any]) -> Callable[..., Any]:
        manager = self._manager

        @functools.wraps(function)  # carries pluggy's mark, and the names of the arguments it wants
        def guarded(*arguments: Any) -> Sequence[Finding] | None:
            try:
                answer = function(*arguments)
                return None if answer is None else fit.findings(answer)
            except StopTraining as request:
                manager.stop = request
            except Exception as error:  # noqa: BLE001 - whatever it is, training goes on
                manager.switch_off(self, hook, error)
            return None

        return guarded

    def _timed(self, guarded: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*arguments: Any) -> Any:
            began = clock()
            try:
                return guarded(*arguments)
            finally:
                self.spent_ns += clock() - began

        return timed

    def _traced(self, guarded: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def traced(*arguments: Any) -> Any:
            answer = guarded(*arguments)
            if self._manager.trace is not None:
                self._manager.trace.answered(self.name, answer)
            return answer

        return traced
