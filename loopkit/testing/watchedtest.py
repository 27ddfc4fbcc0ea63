"""The watch around one test: asleep until the test trains, and closed before the test is judged."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from typing import Any

from loopkit import asleep
from loopkit.asleep import Asleep, Ticket
from loopkit.config import Config
from loopkit.errors import PluginError
from loopkit.finding import Finding
from loopkit.run import Run
from loopkit.taps import patch
from loopkit.testing.assertions import assert_finds, assert_silent
from loopkit.watching import Watch, apart, current_run


class WatchedTest:
    """What the `loopkit` fixture gives, and what `pytest --loopkit` puts around a test.

    Opening a watch takes some 50 ms, which tests that never train do not pay: it is opened at the first optimizer,
    loader, loaded state, child process or backward. One that a fixture has open is joined; that of `loopkit run` is
    not.

    Args:
        select, ignore, plugins, probe: as `loopkit.watch` takes them, beside what the project has set.
        settings: what the project has set.

    Attributes:
        judged: the test has read its findings and judges them itself.
        steps: optimizer steps that the test executed; known when its watch is closed.
        failures: plugins that failed meanwhile, as text.
    """

    def __init__(
        self,
        *,
        select: Iterable[str] | None = None,
        ignore: Iterable[str] = (),
        plugins: Sequence[Any] = (),
        probe: bool = False,
        settings: Config | None = None,
    ) -> None:
        settings = settings if settings is not None else Config()
        self._watch: Watch | None = Watch(
            select=select if select is not None else settings.select,
            ignore=[*settings.ignore, *ignore],
            plugins=[each for each in plugins if not isinstance(each, str)],
            wanted=[*settings.plugins, *(each for each in plugins if isinstance(each, str))],
            skip=["console", *settings.no_plugins],
            config=settings,
            probe=probe,
        )
        self.judged = False
        self.steps = 0
        self.failures: list[str] = []
        self._process = os.getpid()
        self._run: Run | None = None
        self._asleep: Asleep | None = None
        self._apart = contextlib.ExitStack()
        self._before: dict[Any, int] = {}
        self._steps_before = 0
        self._found: list[Finding] = []

    @property
    def run(self) -> Run | None:
        """The run while the test trains; None before it does."""
        return self._run

    @property
    def findings(self) -> list[Finding]:
        """All that was found in this test. Reading it ends the watch, so that what shows at the end of a run is
        there, and leaves the verdict to the test: findings then fail it no more by themselves.
        """
        self.judged = True
        self.close()
        return self._found

    def assert_finds(self, rule: str, *, line_of: str | None = None) -> Finding:
        """Hold that a rule was found, as `loopkit.testing.assert_finds` does; ends the watch."""
        __tracebackhide__ = True
        return assert_finds(self.findings, rule, line_of=line_of)

    def assert_silent(self, rule: str | None = None) -> None:
        """Hold that nothing was found, or nothing of one rule; ends the watch."""
        __tracebackhide__ = True
        assert_silent(self.findings, rule)

    def begin(self) -> None:
        """Wait for the first sign of training; where a fixture has a watch open, join it at once."""
        outer = current_run()
        if outer is not None and outer.program:
            self._apart.enter_context(apart())  # `loopkit run -m pytest`: tests are judged one by one
        elif outer is not None or asleep.sleeping is not None:
            self._open()
            return
        import multiprocessing.process

        import torch
        from torch.utils.data import DataLoader

        signs = [(DataLoader, "__iter__"), (torch.nn.Module, "load_state_dict"), (torch, "load")]
        signs.append((multiprocessing.process.BaseProcess, "start"))  # the child may train
        self._asleep = Asleep(Ticket("", (), ()), lambda ticket: self._open(), also=signs)

    def close(self) -> list[Finding]:
        """End the watch; what was found since it began. Calling it again gives the same."""
        with self._apart:
            return self._closed()

    def settle(self) -> None:
        """Once the test's fixtures are gone, and with them what they had patched on top of us: leave nothing."""
        if self._asleep is not None:
            self._asleep.sweep()
        patch.sweep()

    def _closed(self) -> list[Finding]:
        if self._asleep is not None:
            self._asleep.dismiss()
        watch, run, self._watch = self._watch, self._run, None
        if watch is None or run is None:
            return self._found
        self._run = None
        watch.__exit__(None, None, None)
        self.steps = sum(run.steps_by_process()) - self._steps_before
        self._found = [finding for finding in run.findings if finding.count > self._before.get(finding.key, 0)]
        self.failures = [f"{each.plugin} failed ({each.when}): {each.error}" for each in run.failures]
        if not watch.all_loaded:
            raise PluginError("; ".join(self.failures))
        return self._found

    def _open(self) -> None:
        if self._watch is None or os.getpid() != self._process:
            return  # a child that the test forked before it trained: there is no run that it could join
        outer = current_run()
        if outer is not None:
            self._before = {finding.key: finding.count for finding in outer.findings}
            self._steps_before = outer.steps
        self._run = self._watch.__enter__()
