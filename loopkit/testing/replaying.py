"""Telling a check again what a run told: without a loop, without torch, in no time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

from loopkit.ending import Ending
from loopkit.errors import PluginError, UsageError
from loopkit.finding import Finding
from loopkit.manager import Manager
from loopkit.testing.stream import Stream
from loopkit.update import Update

Instrument = TypeVar("Instrument")
_OF_UPDATES = ("loopkit.windows",)
"""Instruments of loopkit that a check feeds with updates itself; all others read live objects."""


def replay(check: Any, stream: Stream, *, instruments: Mapping[type[Any], object] | None = None) -> list[Finding]:
    """The findings of a check, given a recorded stream: `run_started`, each update, `run_finished`.

    Args:
        check: a class, made afresh, or an object.
        stream: what is told; made by `record`, `Recorder` or `Stream.from_json`.
        instruments: what `run.instrument(cls)` is to give, where the check asks for live readings of loopkit's.

    Raises:
        UsageError: it asks for what no stream has.
        PluginError: it is no plugin. What the check raises passes, with its traceback.
    """
    run = Replay(stream, instruments or {})
    manager = _Strict()
    manager.add(check)
    if manager.failures:
        raise PluginError(f"cannot replay into {manager.failures[0].plugin}: {manager.failures[0].error}")
    for finding in manager.call("run_started", run=run):
        run.report(finding)
    for update in stream.updates:
        run.steps = update.number
        for finding in manager.call("update_finished", run=run, update=update):
            run.report(finding)
    for finding in manager.call("run_finished", run=run):
        run.report(finding)
    return run.findings


class Replay(Ending):
    """Stands for the run: it has what a stream knows, and says so where it is asked for more.

    Attributes:
        steps: executed optimizer steps at the update that is told.
        could_not: what `could_not_check` was told, as rule and reason.
    """

    def __init__(self, stream: Stream, instruments: Mapping[type[Any], object]) -> None:
        super().__init__()
        self.steps = 0
        self.could_not: list[tuple[str, str]] = []
        self._open = stream.open
        self._found: dict[object, Finding] = {}
        self._instruments: dict[Any, Any] = dict(instruments)

    @property
    def findings(self) -> list[Finding]:
        """What was found so far; the count says how many of the updates that were told showed it."""
        return list(self._found.values())

    def report(self, finding: Finding) -> None:
        """Take a finding; repeats are counted."""
        known = self._found.get(finding.key)
        if known is not None:
            self._found[finding.key] = dataclasses.replace(known, count=known.count + 1)
        else:
            step = finding.step if finding.step is not None else self.steps
            self._found[finding.key] = dataclasses.replace(finding, step=step)

    def could_not_check(self, rule: str, why: str) -> None:
        """Keep it."""
        self.could_not.append((rule, why))

    def open_update(self) -> Update | None:
        """What was left undone at the end."""
        return self._open

    def tell_next(self) -> None:
        """Do nothing: what is told next stands in the stream."""

    def instrument(self, kind: Callable[[], Instrument]) -> Instrument:
        """The check's own instrument, or the one that was given for a live one of loopkit's.

        Raises:
            UsageError: none was given.
        """
        if kind not in self._instruments:
            module, name = getattr(kind, "__module__", ""), getattr(kind, "__name__", repr(kind))
            if module.partition(".")[0] == "loopkit" and module not in _OF_UPDATES:
                raise UsageError(
                    f"the check asks for {name}, which reads live objects, and a stream has updates alone: "
                    f"give replay(…, instruments={{{name}: …}}), or test the check with watch_loop"
                )
            self._instruments[kind] = kind()
        made: Instrument = self._instruments[kind]
        return made

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a replay knows no run.{name}: test a check that needs it with watch_loop")


class _Strict(Manager):
    """Lets through what a check raises: in a test nothing else is to go on."""

    def switch_off(self, guard: Any, when: str, error: Exception) -> NoReturn:
        """Raise it."""
        raise error
