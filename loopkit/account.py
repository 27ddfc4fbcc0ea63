"""What a run says of itself to whoever asks: its length, its rows, its cost, what it could not check."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loopkit.ending import Ending
from loopkit.notes import Notes

if TYPE_CHECKING:
    from collections.abc import Callable

    from loopkit.finding import Severity
    from loopkit.found import Findings
    from loopkit.history import History
    from loopkit.manager import Manager
    from loopkit.parts import Part
    from loopkit.recorder import Recorder
    from loopkit.update import SchedulerReading


_SLOW_NS = 2_000_000_000
_SLOW_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Slow:
    """A plugin that took long.

    Args:
        plugin: its name.
        seconds: in all.
        of_run: the share of the run's wall time.
        of_overhead: the share of what loopkit cost.
    """

    plugin: str
    seconds: float
    of_run: float
    of_overhead: float

    def to_dict(self) -> dict[str, Any]:
        """As the JSON report has it."""
        return {
            "plugin": self.plugin,
            "seconds": round(self.seconds, 3),
            "of_run": round(self.of_run, 4),
            "of_overhead": round(self.of_overhead, 4),
        }


class Account(Ending):
    """What is asked of a run while it goes on, and at its end.

    Attributes:
        part: another process reports.
    """

    manager: Manager
    part: bool
    thread: int | None
    _recorder: Recorder
    _found: Findings

    def __init__(self) -> None:
        super().__init__()
        self._began_ns = time.perf_counter_ns()
        self._ended_ns: int | None = None
        self._notes = Notes()
        self._others: list[Part] = []

    @property
    def recorder(self) -> Recorder:
        """The record of the current update. Nothing is left out of it once it is asked for.

        On another thread than that of the loop it is as it was when it was last written down.
        """
        if self.thread == threading.get_ident():
            self.guarded(self._recorder.wake)
        return self._recorder

    @property
    def history(self) -> History:
        """How often each shape of update occurred."""
        return self.recorder.history

    @property
    def steps(self) -> int:
        """Optimizer steps executed so far in this process, of all optimizers."""
        return self._recorder.steps

    def guarded(self, action: Callable[[], object]) -> None:
        """Run our own reading of an event; if it fails, say so and go on without: training is not ours to break."""
        try:
            action()
        except Exception as error:  # noqa: BLE001
            self.broken(error)

    def broken(self, error: Exception) -> None:
        """An instrument failed; a run says what becomes of it."""

    def could_not_check(self, rule: str, why: str) -> None:
        """Say that a rule ("*" for all) could not be judged, and why. Repeats are one."""
        self._notes.add(rule, why)

    def notes(self) -> list[tuple[str, str]]:
        """What `could_not_check` was told so far, as rule and reason."""
        return self._notes.said()

    def not_checked(self) -> list[tuple[str, str]]:
        """What could not be checked, as rule and reason."""
        return self._notes.all(self.recorder, others_train=bool(self._others) or self.part)

    def steps_by_process(self) -> list[int]:
        """The steps of each process that executed any; those of others than this one are known at the end."""
        return [steps for steps in (self.steps, *(part.steps for part in self._others)) if steps]

    def rows(self) -> list[tuple[str, int]]:
        """The rows of events updates consisted of, with counts, the most frequent first."""
        rows = Counter(dict(self.history.rows()))
        for part in self._others:
            rows.update(dict(part.rows))
        return rows.most_common()

    def schedules(self, *, unused: bool = False) -> list[SchedulerReading]:
        """The last advance of each scheduler, or those that never did, as met; of many that are gone, the latest."""
        return self.recorder.schedules(unused=unused)

    def unfinished_row(self) -> str:
        """The row of events since the last step: all there is, in a loop that never steps."""
        return self.recorder.unfinished()

    def overhead(self) -> float:
        """The share of the run's wall time that was spent in loopkit, between 0 and 1."""
        return min(1.0, self.recorder.spent_ns / max(1.0, self.seconds() * 1e9))

    def slow_plugins(self) -> list[Slow]:
        """The plugins that took a noticeable part of the run, the slowest first."""
        run_ns = max(1.0, self.seconds() * 1e9)
        slow = [each for each in self.manager.spent() if each[1] >= max(_SLOW_NS, _SLOW_SHARE * run_ns)]
        return [
            Slow(name, spent / 1e9, min(1.0, spent / run_ns), spent / max(self.recorder.spent_ns, spent))
            for name, spent in sorted(slow, key=lambda each: -each[1])
        ]

    def seconds(self) -> float:
        """How long the run has been watched."""
        end = self._ended_ns if self._ended_ns is not None else time.perf_counter_ns()
        return (end - self._began_ns) / 1e9

    def worst(self) -> Severity | None:
        """The highest severity found, or None."""
        return self._found.worst()
