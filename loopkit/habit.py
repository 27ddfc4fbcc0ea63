"""Telling a habit from an exception: a skipped batch looks like a lost one, but rarely comes."""

from __future__ import annotations

from collections.abc import Hashable


class Habit:
    """Counts how often something was seen, out of how many times it could have been.

    Made for checks that hear of an update at its 1st, 2nd, 4th, 8th … occurrence: the count of each signature is then
    exact when it is told and at least half the real one in between.
    """

    def __init__(self) -> None:
        self._seen: dict[Hashable, dict[int, int]] = {}
        self._last: dict[Hashable, tuple[int, int]] = {}

    def is_one(self, of_what: Hashable, signature: int, seen: int, out_of: int, *, at_least: int = 2) -> bool:
        """Whether it came in three of four times: of all so far, or, from the fourth on, of the latest.

        Args:
            of_what: what is counted, such as an optimizer's number and a line.
            signature, seen: of the update that shows it now.
            out_of: how often it could have come until now, such as the optimizer's executed steps.
            at_least: how often it must have come.
        """
        counts = self._seen.setdefault(of_what, {})
        counts[signature] = seen
        total = sum(counts.values())
        total_before, out_of_before = self._last.get(of_what, (0, 0))
        self._last[of_what] = (total, out_of)
        lately, could = total - total_before, out_of - out_of_before
        return total >= at_least and (4 * total >= 3 * out_of or (total >= 4 and 4 * lately >= 3 * could))
