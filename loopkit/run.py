"""The run: one watched training run, and the place where it is decided what is reported."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from loopkit import ranks
from loopkit.account import Account
from loopkit.callsite import CallSites
from loopkit.errors import StopTraining
from loopkit.finding import Finding
from loopkit.found import HERE, Findings
from loopkit.ledger import Ledger
from loopkit.manager import Failure, Manager
from loopkit.models import Models
from loopkit.parts import Part
from loopkit.plugin.fit import check_finding
from loopkit.recorder import Recorder
from loopkit.replicas import Replicas
from loopkit.rulebook import rules
from loopkit.signature import Signature
from loopkit.silence import Filter, Silence, silences
from loopkit.update import Update

Instrument = TypeVar("Instrument")


class Run(Account):
    """One watched training run. Made by `watch()`; handed to every hook as `run`.

    Attributes:
        findings: what was found so far, with counts.
        failures: plugins that failed; the run went on without them.
        folder: the working directory when the watch opened.
        part: another process reports; this one's findings are sent there, and judged by its selection.
        logged: the names of metrics logged so far, each with the step of its last value.

    How it ends, and who ends it, is said in `Ending`; what it says of itself, in `Account`.
    """

    def __init__(self, manager: Manager, *, filters: list[Filter] | None = None, part: bool = False) -> None:
        super().__init__()
        self.manager = manager
        self.folder = os.getcwd()
        self.part = part
        self.logged: dict[str, int] = {}
        self.filters = filters if filters is not None else []
        self._found = Findings(self.filters, inline=not part, symptoms=manager.symptoms)
        self.silenced = self._found.silenced
        self.heard: frozenset[str] = frozenset()
        self._busy = True
        self._broken = False
        self.thread: int | None = None
        self._instruments: dict[type[Any], Any] = {}
        instruments = self.instrument(CallSites), self.instrument(Ledger), self.instrument(Models)
        self._recorder = Recorder(*instruments, self._judge)
        self.recorder.replicas = self.instrument(Replicas)
        self._instruments |= self.recorder.losses.instruments() | self.recorder.instruments()
        manager.when_one_fails(self._plugin_failed)

    @property
    def busy(self) -> bool:
        """An event now is not of the user's making; also before the start and after the end."""
        return self._busy

    @busy.setter
    def busy(self, busy: bool) -> None:
        self._busy = busy
        self._recorder.thread = 0 if busy or self.thread is None else self.thread

    # -- what plugins ask --------------------------------------------------------------------------------

    @property
    def passes(self) -> int:
        """Sources over loaders that train, begun after the first of each, as far as they are known."""
        return self.recorder.sources.training

    @property
    def findings(self) -> list[Finding]:
        """What was found so far, each with its count, the gravest and surest first."""
        return self._found.told(self.history.occurrences)

    @property
    def failures(self) -> list[Failure]:
        """Plugins that failed, each with the moment and the error."""
        return self.manager.failures

    def open_update(self) -> Update | None:
        """What happened since the last executed step, as a record whose `seen` is 0; None when nothing did.

        At `run_finished` this is what a loop left undone: a window that was never stepped, a loop that never steps.
        """
        return self.recorder.open_update()

    def tell_next(self) -> None:
        """Have the next update told to `update_finished`, whatever its shape, as when weights came from outside."""
        self.recorder.tell_next()

    def instrument(self, kind: Callable[[], Instrument]) -> Instrument:
        """The run's one object of this class, made on first demand. Plugins may bring classes of their own."""
        if kind not in self._instruments:
            self._instruments[kind] = kind()  # type: ignore[index]
        made: Instrument = self._instruments[kind]  # type: ignore[index]
        return made

    def report(self, finding: Finding) -> None:
        """Take a finding: stamp step and rank, fold repeats, silence, hand on. The only way into the report.
        What is no finding that could be shown is refused (`PluginError`)."""
        check_finding(finding)
        self._report(finding, None)

    def log(self, name: str, value: Any, step: int | None = None) -> None:
        """Tell plugins a named number, such as "val/loss".

        Args:
            name: parts by slashes, as TensorBoard groups them.
            value: a float, or a 0-dim tensor, which is not read here.
            step: executed optimizer steps it belongs to; None for those so far.
        """
        step = self.logged[name] = self.steps + self.step_offset if step is None else step
        self.emit("metric_logged", name=name, value=value, step=step)

    def judged(self, rule: str) -> bool:
        """Whether `rule` was looked for in the whole of this run, and would be shown.

        Not if its check is not loaded or has failed, if it is ignored or not selected, if something kept it from
        being checked, or if the run trained nothing or did not come to its end.
        """
        loaded = {getattr(check, "rule", None) for check in self.manager.checks()}
        if rule not in loaded or any(each.reason(rule) for each in self.filters):
            return False
        hidden = {name for name, _ in self._notes.obstacles(self.recorder)} & {rule, "*"}
        return not hidden and self.ending == "complete" and bool(self.steps_by_process())

    def silences(self) -> list[Silence]:
        """What the comments in the user's files silence, for each file that an event of this run came from.

        To be asked at the end. A process that does not report knows only a part of what is silenced: none there.
        """
        if self.part or self.manager.checks_only:
            return []
        known = {*rules(), *(str(getattr(check, "rule", "")) for check in self.manager.checks())}
        silenced = [finding for finding, _ in self.silenced]
        lines = self.instrument(CallSites).lines()
        return [each for file in lines for each in silences(file, lines[file], silenced, known)]

    # -- what watch and the taps do ----------------------------------------------------------------------

    def start(self) -> None:
        """Open: from now on events count."""
        self.refresh()
        self._began_ns = time.perf_counter_ns()
        self.busy = False
        self.emit("run_started")

    def joined(self, plugins: list[object]) -> None:
        """Plugins came while the run goes on: for those that are no checks it starts now."""
        self._tell("run_started", plugins)

    def left(self, plugins: list[object]) -> None:
        """Plugins are about to go: for those that are no checks it ends now."""
        self._tell("run_finished", plugins)

    def finish(self, gather: Callable[[Run], None] | None = None) -> None:
        """Close: judge the last update, hear the other processes, tell the plugins: checks first, so that a sink's
        report is whole.

        Args:
            gather: calls `merge` if this process is to report for others.
        """
        try:
            self._over = True  # there is nothing left to stop
            if not self._broken:
                self.busy = False
                try:
                    self.guarded(self._recorder.wake)  # whichever thread this is
                    self.guarded(self._recorder.finish)
                except StopTraining:
                    pass  # asked for by a plugin that heard the last evaluation end
            self._ended_ns = time.perf_counter_ns()
            if gather is not None:
                self.guarded(lambda: gather(self))
            self.busy = False
            if not self._broken:
                self._finished(checks=True)
            self._finished(checks=False)
        finally:
            self.busy = True

    def _tell(self, hook: str, plugins: list[object]) -> None:
        with self._occupied():
            for answers in self.manager.call_in_turn(hook, checks=False, only=plugins, run=self):
                for finding in answers:
                    self._report(finding, None)

    def _finished(self, *, checks: bool) -> None:
        with self._occupied():
            for answers in self.manager.call_in_turn("run_finished", checks=checks, run=self):
                for finding in answers:
                    self._report(finding, None)

    def merge(self, parts: Mapping[str, Part]) -> None:
        """Take in what other processes of this run saw: a finding that several showed is one.

        Args:
            parts: all of them, by name, as they are now; a later call replaces what an earlier one brought.
        """
        self._others = list(parts.values())
        new = self._found.merge(parts)
        for part in parts.values():
            for rule, why in part.not_checked:
                self.could_not_check(rule, why)
            self.failures.extend(failure for failure in part.failures if failure not in self.failures)
        for found in new:
            self.emit("finding_reported", finding=found.told(self.history.occurrences, HERE))

    def tell(self) -> None:
        """Tell plugins that came too late all that was found, and that the run has ended."""
        for finding in self.findings:
            self.emit("finding_reported", finding=finding)
        self._finished(checks=False)

    def refresh(self) -> None:
        """Note which hooks anybody implements, after plugins came or went."""
        hooks = vars(self.manager.hook)
        self.heard = frozenset(name for name in hooks if not name.startswith("_") and self.manager.hears(name))
        self.recorder.losses.ask("update_finished" in self.heard or bool(self.manager.checks()))

    def emit(self, hook: str, **arguments: Any) -> None:
        """Call a hook and report what it answers. Events that plugins cause meanwhile are not events."""
        if hook not in self.heard or (self.busy and hook not in ("finding_reported", "metric_logged")):
            return
        try:
            with self._occupied():
                answers = self.manager.call(hook, run=self, **arguments)
        except StopTraining as request:
            answers = []
            if self.loop is None:
                raise
            self.stop(request.reason)
        for finding in answers:
            self._report(finding, None)

    def listens(self) -> bool:
        """Whether an event that happens now, on this thread, belongs to this run.

        A run follows one thread, that of its first event: a second training loop on another thread would
        tear the record of the first apart.
        """
        if self.busy:
            return False
        thread = threading.get_ident()
        if self.thread is None:
            self.thread = self._recorder.thread = thread
        return thread == self.thread

    def stop_listening(self) -> None:
        """Hear nothing more, as after a fork."""
        self.busy = True

    def broken(self, error: Exception) -> None:
        """An instrument failed. Nothing it would say now can be trusted, so the run stops listening."""
        self.busy = self._broken = True
        self.could_not_check("*", f"loopkit failed at step {self.steps} and stopped watching: {error!r}")
        if os.environ.get("LOOPKIT_RAISE"):
            raise error
        self.say(f"internal error, no longer watching: {error!r}")

    # -- inside ------------------------------------------------------------------------------------------

    @contextmanager
    def _occupied(self) -> Iterator[None]:
        before, self.busy = self.busy, True
        try:
            yield
        finally:
            self.busy = before

    def _judge(self, update: Update, signature: Signature) -> None:
        if "update_finished" not in self.heard or self.busy:
            return
        with self._occupied():
            answers = self.manager.call("update_finished", run=self, update=update)
        for finding in answers:
            self._report(finding, signature)

    def _report(self, finding: Finding, signature: Signature | None) -> None:
        rank = finding.rank if finding.rank is not None else ranks.rank()
        step = finding.step if finding.step is not None else self.steps
        finding = dataclasses.replace(finding, step=step, rank=rank)
        if self._found.add(finding, signature):
            self.emit("finding_reported", finding=finding)

    def _plugin_failed(self, failure: Failure) -> None:
        self.refresh()
        self.say(f"plugin {failure.plugin} failed ({failure.when}) and was switched off: {failure.error}")
