"""How the time of an update divides into data, forward, backward and optimizer."""

from __future__ import annotations

import statistics
import time

PARTS = ("data", "forward", "backward", "optimizer")
_now = time.perf_counter


class Clock:
    """Takes the times of the events of a loop, by the host's clock.

    On a GPU these are the times the host is held: what it waits for shows where it waits. `data` is from the end of
    a backward or step, or from one batch, to the next batch, with what the loop does in between; `forward` is from
    the model's call to backward, so with the loss; of an accumulated update each part is the sum.
    """

    def __init__(self) -> None:
        self._began: float | None = None  # of the update
        self._mark: float | None = None  # of the part that is on
        self._step: tuple[float, float] | None = (
            None  # since when, and what forward and backward had taken until then
        )
        self._idle: float | None = None
        self._sums = dict.fromkeys(PARTS, 0.0)
        self._seen: dict[str, list[float]] = {}

    def batch(self) -> None:
        """A batch arrived."""
        now = _now()
        if self._idle is not None:
            self._sums["data"] += now - self._idle
        self._idle = now

    def forward(self, training: bool) -> None:
        """The model is called."""
        self._idle = None
        if training and self._mark is None:
            self._mark = _now()

    def backward_began(self) -> None:
        """The loss is known."""
        now = _now()
        if self._mark is not None:
            self._sums["forward"] += now - self._mark
        self._mark = now

    def backward_ended(self) -> None:
        """Gradients are there."""
        now = _now()
        if self._mark is not None:
            self._sums["backward"] += now - self._mark
        self._mark, self._idle = None, now

    def step_began(self) -> None:
        """The optimizer begins. What a closure runs inside is counted where it belongs."""
        self._mark, self._step = None, (_now(), self._worked())

    def step_ended(self) -> None:
        """The update is done."""
        now = _now()
        if self._step is not None:
            self._sums["optimizer"] += now - self._step[0] - (self._worked() - self._step[1])
        if self._began is not None:
            for part, seconds in (*self._sums.items(), ("update", now - self._began)):
                self._seen.setdefault(part, []).append(seconds)
        self._sums = dict.fromkeys(PARTS, 0.0)
        self._mark = self._step = None
        self._began = self._idle = now

    def _worked(self) -> float:
        return self._sums["forward"] + self._sums["backward"]

    def leave_out(self) -> None:
        """What was done since the step is ours, and no part of the next update."""
        self._began = self._idle = _now()

    def take(self) -> list[tuple[str, float]]:
        """The median seconds of each part over the updates since the last call; of parts that took none, nothing."""
        seen, self._seen = self._seen, {}
        medians = [(f"time/{part}", statistics.median(each)) for part, each in seen.items()]
        return [(name, seconds) for name, seconds in medians if seconds]
