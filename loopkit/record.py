"""The record of the current update, and which updates checks get to see.

When an update closes, its signature (the events without their numbers) is looked up; only a new one, or one at its
2nd, 4th, 8th … occurrence, becomes an `Update`.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import TYPE_CHECKING

from loopkit.expected import NOTHING
from loopkit.hearing import Hearing
from loopkit.history import History, Raw, RawEvent, row
from loopkit.ledger import Ledger
from loopkit.losses import Losses
from loopkit.models import Models
from loopkit.opensteps import OpenSteps
from loopkit.reading import told
from loopkit.scaling import mark_steps
from loopkit.signature import STEP, Signature
from loopkit.update import Update

if TYPE_CHECKING:
    from loopkit.callsite import Site
    from loopkit.update import StepReading

LONGEST = 4096
"""Events kept of one update; a loop that never steps, or a very long window, must not grow without bound."""
_code = itemgetter(0)


class Record(Hearing):
    """What has happened since the last executed step, and how often each shape of update occurred.

    Args:
        deliver: called with each `Update` that checks should see, and its signature.
    """

    def __init__(self, ledger: Ledger, models: Models, deliver: Callable[[Update, Signature], None]) -> None:
        super().__init__()
        self.steps = 0
        self.history = History()
        self.losses = Losses(ledger, models)
        self.on_walking: Callable[[bool], None] | None = None  # called when an update closed: is the next one walked?
        self._deliver = deliver
        self._events: list[RawEvent] = []
        self._stepped = False
        self._truncated = False
        self._open = OpenSteps(ledger)
        self._prelude: set[int] = set()
        self._prelude_over = False
        self._tells_next = False
        self.expected = NOTHING

    def _note(self, code: int, site: Site, raw: Raw = None) -> None:
        """Append an event."""
        if len(self._events) < LONGEST:
            self._events.append((code, site, raw))
        else:
            self._truncated = True

    def _may_open(self, code: int, site: Site) -> None:
        """A clear or a scheduler's advance comes, which may be the first event of the next update.

        It is, if such a call stood before this update's backward too: so a loop that begins with `zero_grad()`
        reads as one, whether its batches are seen or not. Asked only of loops that do begin so.
        """
        key = (code & 15) + 16 * site.spot
        if self._stepped and not self._open.stack and key in self._prelude:
            self.close(code)
        if not self._prelude_over:
            self._prelude.add(key)

    def _repeats(self, signature: Signature, seen: int, first: int) -> None:
        """An update closed that was not told; what may come of it is said in `Settling`."""

    def wake(self) -> None:
        """Write down what was left out; here nothing is."""

    def close(self, first: int = -1) -> None:
        """End the current update: count its signature, and hand it on if checks should see it.

        Args:
            first: the event with which the next one begins, packed, if it is about to be written down.
        """
        signature = tuple(map(_code, self._events))
        seen = self.history.count(signature)
        losses, updates = self.losses, self.history.updates
        # Of the rest, only the multiples of 8 and the numbers before them change what the next update is to be.
        if losses.backwards or self.weight or seen == 1 or updates + 1 & 6 == 0:
            self._plan(updates, seen)
        else:
            losses.wanted = losses.first = False
        if seen & (seen - 1) == 0 or self._tells_next:
            self._tells_next = False
            update = self.history.update(self._events, signature, self.steps, truncated=self._truncated)
            self._reset()
            self._deliver(update, signature)
        else:
            if first >= 0:
                self._repeats(signature, seen, first)
            self._events.clear()  # what `_reset` does
            self._prelude.clear()
            self._stepped = self._truncated = self._prelude_over = False

    def _plan(self, updates: int, seen: int) -> None:
        """Say what is timed and walked of the next update."""
        losses = self.losses
        self.time_some(updates)
        if losses.backwards or seen == 1 or updates & (updates + 1) == 0:
            losses.closed(updates, seen)
            if self.on_walking is not None:
                self.on_walking(losses.walking)
        else:
            losses.wanted = losses.first = False

    def events_so_far(self) -> int:
        """How many events the current update has."""
        return len(self._events)

    def steps_were_scaled(self, start: int) -> None:
        """A GradScaler executed the steps of the current update from event `start` on."""
        mark_steps(self._events, start)

    def tell_next(self) -> None:
        """Weights came from outside: the next update is told, whatever its shape."""
        if self._stepped and not self._open.stack:
            self.close()
        self._tells_next = True

    def last_reading(self) -> StepReading | None:
        """What the ledger said of the last executed step of the current update; None before one."""
        raw = next((raw for code, _, raw in reversed(self._events) if code & 15 == STEP), None)
        return None if raw is None else told(raw)

    def _reset(self) -> None:
        self._events.clear()
        self._prelude.clear()
        self._stepped = self._truncated = self._prelude_over = False

    def finish(self) -> None:
        """The run ends: an update that has stepped is judged, one that has not is left out."""
        if self._stepped:
            self.close()
        self.losses.finite.forget()

    def unfinished(self) -> str:
        """The row of events since the last step: all there is, in a loop that never steps."""
        return row(self._events)
