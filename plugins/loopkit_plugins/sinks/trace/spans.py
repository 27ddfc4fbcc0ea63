"""How long each event took, by the host's clock, without what other events took inside it."""

from __future__ import annotations

import time
from dataclasses import dataclass

_now = time.perf_counter_ns


@dataclass(slots=True)
class _Span:
    kind: str
    began: int
    inside: int = 0


class Spans:
    """Begins and ends of events. One that never ends, as in a forward that raised, is dropped.

    Attributes:
        first: when the first event began; None before it.
        last: when the last one ended.
    """

    def __init__(self) -> None:
        self.first: int | None = None
        self.last = 0
        self._open: list[_Span] = []

    def begin(self, kind: str, *, nests: bool = False) -> None:
        """An event begins.

        Args:
            kind: of the event.
            nests: another of its kind may run inside it.
        """
        known = next((at for at, span in enumerate(self._open) if span.kind == kind), None)
        if known is not None and not nests:
            del self._open[known:]
        span = _Span(kind, 0)
        self._open.append(span)
        span.began = _now()  # what was done here is not the event's
        self.first = self.first or span.began

    def end(self, kind: str) -> int | None:
        """An event ended: its own time in ns; None where its begin was not heard."""
        self.last = now = _now()
        at = next((at for at in range(len(self._open) - 1, -1, -1) if self._open[at].kind == kind), None)
        if at is None:
            return None
        span = self._open[at]
        del self._open[at:]
        if self._open:
            self._open[-1].inside += now - span.began
        return max(0, now - span.began - span.inside)

    def forget(self) -> None:
        """An update ended: what began before the last end, and has not ended, never will."""
        self._open = [span for span in self._open if span.began > self.last]
