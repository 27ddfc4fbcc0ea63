"""What every tap asks at every event: is this thread listened to, and is this event timed."""

from __future__ import annotations

_ALWAYS_TIMED, _TIMED_EVERY = 16, 16  # updates whose events are timed: reading the clock costs too


class Hearing:
    """The part of a record that taps read before anything else.

    Attributes:
        thread: the thread whose events are heard; 0 while none is, as before the first event.
        weight: how many events one that is timed stands for; 0: those of the current update are not timed.
        spent_ns: time spent in loopkit so far, estimated from the events that are timed.
    """

    def __init__(self) -> None:
        self.thread = 0
        self.weight = 1
        self.spent_ns = 0

    def timed_after(self, updates: int) -> int:
        """After how many updates, more than these, the weight changes next from 0."""
        periodic = updates + ((_TIMED_EVERY // 2 - updates) % _TIMED_EVERY or _TIMED_EVERY)
        return min(periodic, (1 << (updates + 1).bit_length()) - 1)

    def time_some(self, updates: int) -> None:
        """So many updates have closed. To be called at least while the weight is not 0, at the multiples of 8, and at
        the numbers before the powers of 2."""
        if updates <= _ALWAYS_TIMED:
            self.weight = 1
        elif updates % _TIMED_EVERY == _TIMED_EVERY // 2:
            self.weight = _TIMED_EVERY
        else:
            # Those walked or told, next to the powers of 2, take long and stand for no others.
            self.weight = int(updates & (updates + 1) == 0 or updates & (updates - 1) == 0)
