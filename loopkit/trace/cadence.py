"""How often something happens in a loop, in words: `every 4th batch`, `evaluation every 500 updates`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from loopkit.trace.recorded import Trace, TracedRow


def batches_said(trace: Trace, row: str, *, alone: bool) -> list[str]:
    """How many batches there are to an update of this row; nothing where none is seen, or their number varies.

    Args:
        trace: what was recorded.
        row: a usual one.
        alone: it is the only usual one, so that all updates count: loops that read ahead take batches in others.
    """
    rows = [each for each in trace.rows if alone or str(each) == row]
    batches = batches_of(rows)
    if not batches:
        return []
    return ["a step every batch" if batches == 1 else f"a step every {ordinal(batches)} batch"]


def batches_of(rows: Sequence[TracedRow]) -> int:
    """How many batches there are to an update; 0 where that is no number."""
    mean = sum(row.batches for row in rows) / max(1, sum(row.count for row in rows))
    return round(mean) if abs(mean - round(mean)) < 0.25 else 0


def evaluations_said(trace: Trace, row: str) -> list[str]:
    """When evaluations began; nothing where each update has one."""
    at = trace.evaluations
    if not at or "evaluation" in row:
        return []
    if len(at) == 1:
        return [f"evaluation once, after update {at[0]:,}"]
    every = period(at)
    return [f"evaluation every {every:,} updates" if every else f"evaluation {len(at):,} times"]


def period(at: Sequence[int]) -> int | None:
    """The distance between moments, where it is the same each time; else None. The first may come at once."""
    distances = {later - earlier for earlier, later in itertools.pairwise(at)}
    return distances.pop() if len(distances) == 1 and 0 not in distances else None


def ordinal(number: int) -> str:
    """`2nd`, `3rd`, `4th`, `11th`, `21st`."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{ending}"
