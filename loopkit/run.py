"""The run: one watched training run, and the place where it is decided what is reported."""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from loopkit.callsite import CallSites
from loopkit.finding import Finding, Severity
from loopkit.ledger import Ledger
from loopkit.manager import Failure, Manager
from loopkit.models import Models
from loopkit.recorder import Recorder
from loopkit.signature import Signature
from loopkit.silence import Filter, inline_reason
from loopkit.update import Update

Instrument = TypeVar("Instrument")

COMPILED = "regions inside torch.compile are opaque"


class Run:
    """One watched training run. Made by `watch()`; handed to every hook as `run`.

    Attributes:
        findings: what was found so far, with counts.
        steps: optimizer steps executed so far.
        failures: plugins that failed; the run went on without them.
        folder: the working directory when the watch opened.
    """

    def __init__(self, manager: Manager, *, filters: list[Filter] | None = None) -> None:
        self.manager = manager
        self.folder = os.getcwd()
        self.filters = filters if filters is not None else []
        self.silenced: list[tuple[Finding, str]] = []
        self.heard: frozenset[str] = frozenset()
        self.busy = True  # an event now is not of the user's making; also before the start and after the end
        self.spent_ns = 0
        self._began_ns = time.perf_counter_ns()
        self._broken = False
        self._graphs_before = graphs_compiled()
        self._ended_ns: int | None = None
        self.thread: int | None = None
        self._instruments: dict[type[Any], Any] = {}
        self._found: dict[tuple[object, ...], _Found] = {}
        self._not_checked: dict[tuple[str, str], None] = {}
        sites, ledger, models = self.instrument(CallSites), self.instrument(Ledger), self.instrument(Models)
        self.recorder = Recorder(sites, ledger, models, self._judge)
        self.history = self.recorder.history
        manager.when_one_fails(self._plugin_failed)

    # -- what plugins ask --------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """Optimizer steps executed so far, of all optimizers."""
        return self.recorder.steps

    @property
    def findings(self) -> list[Finding]:
        """What was found so far, in the order it was first seen, each with its count."""
        return [found.told(self.history.occurrences) for found in self._found.values()]

    @property
    def failures(self) -> list[Failure]:
        """Plugins that failed, each with the moment and the error."""
        return self.manager.failures

    def open_update(self) -> Update | None:
        """What happened since the last executed step, as a record whose `seen` is 0; None when nothing did.

        At `run_finished` this is what a loop left undone: a window that was never stepped, a loop that never steps.
        """
        return self.recorder.open_update()

    def instrument(self, kind: Callable[[], Instrument]) -> Instrument:
        """The run's one object of this class, made on first demand. Plugins may bring classes of their own."""
        if kind not in self._instruments:
            self._instruments[kind] = kind()  # type: ignore[index]
        made: Instrument = self._instruments[kind]  # type: ignore[index]
        return made

    def report(self, finding: Finding) -> None:
        """Take a finding: stamp step and rank, fold repeats, silence, hand on. The only way into the report."""
        self._report(finding, None)

    def could_not_check(self, rule: str, why: str) -> None:
        """Say that a rule ("*" for all) could not be judged, and why. Repeats are one."""
        self._not_checked.setdefault((rule, why))

    # -- what sinks ask ----------------------------------------------------------------------------------

    def not_checked(self) -> list[tuple[str, str]]:
        """What could not be checked, as rule and reason."""
        notes = list(self._not_checked)
        recorder = self.recorder
        if not recorder.steps:
            notes.append(("*", "no optimizer step was seen"))
        elif not recorder.batches:
            notes.append(("*", "no DataLoader was seen: batches are unknown (loopkit.batches(iterable) shows them)"))
        if recorder.steps and not recorder.forwards:
            notes.append(("*", "no module was called with gradients on: forward passes are unknown"))
        for owner in self.instrument(Ledger).owners():
            for how in owner.doubt.hidden():
                notes.append(("*", f"gradients of {owner.label} are {how} through .data, which leaves no trace"))
        if recorder.losses.error is not None:
            notes.append(("*", f"the graph of a loss could not be read: {recorder.losses.error!r}"))
        if recorder.losses.survey.error is not None:
            notes.append(("*", f"the model could not be searched: {recorder.losses.survey.error!r}"))
        if graphs_compiled() > self._graphs_before:
            notes.append(("*", COMPILED))
        return list(dict.fromkeys(notes))

    def rows(self) -> list[tuple[str, int]]:
        """The rows of events updates consisted of, with counts, the most frequent first."""
        return self.history.rows()

    def unfinished_row(self) -> str:
        """The row of events since the last step: all there is, in a loop that never steps."""
        return self.recorder.unfinished()

    def overhead(self) -> float:
        """The share of the run's wall time that was spent in loopkit, between 0 and 1."""
        end = self._ended_ns if self._ended_ns is not None else time.perf_counter_ns()
        return min(1.0, self.spent_ns / max(1, end - self._began_ns))

    def seconds(self) -> float:
        """How long the run has been watched."""
        end = self._ended_ns if self._ended_ns is not None else time.perf_counter_ns()
        return (end - self._began_ns) / 1e9

    def worst(self) -> Severity | None:
        """The highest severity found, or None."""
        order = [Severity.INFO, Severity.WARNING, Severity.ERROR]
        return max((found.finding.severity for found in self._found.values()), key=order.index, default=None)

    # -- what watch and the taps do ----------------------------------------------------------------------

    def start(self) -> None:
        """Open: from now on events count."""
        self.refresh()
        self._began_ns = time.perf_counter_ns()
        self.busy = False
        self.emit("run_started")

    def finish(self) -> None:
        """Close: judge the last update, tell the plugins."""
        try:
            if not self._broken:
                self.busy = False
                self.guarded(self.recorder.finish)
            self._ended_ns = time.perf_counter_ns()
            self.busy = False
            self.emit("run_finished")
        finally:
            self.busy = True

    def refresh(self) -> None:
        """Note which hooks anybody implements, after plugins came or went."""
        hooks = [name for name in vars(self.manager.hook) if not name.startswith("_")]
        self.heard = frozenset(name for name in hooks if self.manager.hears(name))

    def emit(self, hook: str, **arguments: Any) -> None:
        """Call a hook and report what it answers. Events that plugins cause meanwhile are not events."""
        if hook not in self.heard or (self.busy and hook != "finding_reported"):
            return
        with self._occupied():
            answers = self.manager.call(hook, run=self, **arguments)
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
            self.thread = thread
        return thread == self.thread

    def stop_listening(self) -> None:
        """Hear nothing more, as after a fork."""
        self.busy = True

    def guarded(self, action: Callable[[], object]) -> None:
        """Run our own reading of an event; if it fails, say so and go on without: training is not ours to break."""
        try:
            action()
        except Exception as error:  # noqa: BLE001
            self.broken(error)

    def broken(self, error: Exception) -> None:
        """An instrument failed. Nothing it would say now can be trusted, so the run stops listening."""
        self.busy = self._broken = True
        self.could_not_check("*", f"loopkit failed at step {self.steps} and stopped watching: {error!r}")
        if os.environ.get("LOOPKIT_RAISE"):
            raise error
        print(f"loopkit: internal error, no longer watching: {error!r}", file=sys.stderr)

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
        known = self._found.get(finding.key)
        if known is not None:
            known.again(signature)
            return
        if finding.step is None:
            finding = dataclasses.replace(finding, step=self.steps)
        if finding.rank is None and "RANK" in os.environ:
            finding = dataclasses.replace(finding, rank=int(os.environ["RANK"]))
        reason = next((why for each in self.filters if (why := each.reason(finding.rule))), None)
        reason = reason or inline_reason(finding)
        if reason is not None:
            if all(finding.key != silent.key for silent, _ in self.silenced):
                self.silenced.append((finding, reason))
            return
        self._found[finding.key] = _Found(finding, signature)
        self.emit("finding_reported", finding=finding)

    def _plugin_failed(self, failure: Failure) -> None:
        self.refresh()
        try:
            print(
                f"loopkit: plugin {failure.plugin} failed ({failure.when}) and was switched off: {failure.error}",
                file=sys.stderr,
            )
        except (OSError, ValueError):
            pass  # stderr is gone; the report still names it


class _Found:
    """A finding and what its count is made of."""

    def __init__(self, finding: Finding, signature: Signature | None) -> None:
        self.finding = finding
        self._times = 0 if signature else 1
        self._signatures = {signature} if signature else set()

    def again(self, signature: Signature | None) -> None:
        """Seen once more: a signature stands for all its updates."""
        if signature is None:
            self._times += 1
        else:
            self._signatures.add(signature)

    def told(self, occurrences: Any) -> Finding:
        """The finding with its count."""
        count = self._times + sum(occurrences.get(signature, 0) for signature in self._signatures)
        return dataclasses.replace(self.finding, count=max(1, count))


def graphs_compiled() -> int:
    """How many graphs torch.compile has made in this process."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    counters = getattr(dynamo, "counters", None)
    return int(counters["stats"]["unique_graphs"]) if counters else 0
