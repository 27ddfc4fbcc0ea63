"""How often something happens in a loop, in words: `every 4th batch`, `evaluation every 500 updates`."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from loopkit.trace.recorded import Trace, TracedRow

_EVALUATION = "evaluation"
_NEAR = 0.1  # a loop that reads ahead takes a batch more, or less


def batches_said(trace: Trace, row: str, *, alone: bool) -> list[str]:
    """How many batches there are to an update of this row; nothing where none is seen, or their number varies.

    Args:
        trace: what was recorded.
        row: a usual one.
        alone: it is the only usual one, so that all updates count: loops that read ahead take batches in others.
    """
    batches = batches_of(trace, row, alone=alone)
    if not batches:
        return []
    return ["a step every batch" if batches == 1 else f"a step every {ordinal(batches)} batch"]


def batches_of(trace: Trace, row: str, *, alone: bool) -> int:
    """How many batches there are to an update of this row; 0 where that is no number. As `batches_said`."""
    own = [each for each in trace.rows if str(each) == row]
    for rows in (trace.rows, own) if alone else (own,):
        mean = sum(row.batches for row in rows) / max(1, sum(row.count for row in rows))
        if abs(mean - round(mean)) < _NEAR:
            return round(mean)
    return 0


def apart_from_evaluations(trace: Trace) -> Trace:
    """The trace with rows that do not say when an evaluation came before, unless that is the usual thing."""
    evaluated = sum(row.count for row in trace.rows if _EVALUATION in row.words)
    if 2 * evaluated > trace.updates:
        return trace
    rows: dict[tuple[object, ...], TracedRow] = {}
    for row in trace.rows:
        left = [each for each in row.events if each[0] != _EVALUATION]
        name = tuple((word, frozenset(trace.events[each].place for each in at)) for word, at in left)
        known = rows.get(name)
        rows[name] = _merged(known, left, row) if known else dataclasses.replace(row, events=tuple(left))
    ranked = sorted(rows.values(), key=lambda row: (-row.count, row.first))
    return dataclasses.replace(trace, rows=tuple(ranked))


def _merged(known: TracedRow, events: Sequence[tuple[str, tuple[int, ...]]], row: TracedRow) -> TracedRow:
    both = zip(known.events, events, strict=True)
    union = tuple((word, tuple(dict.fromkeys([*mine, *theirs]))) for (word, mine), (_, theirs) in both)
    return TracedRow(union, known.count + row.count, min(known.first, row.first), known.batches + row.batches)


def evaluations_said(trace: Trace, row: str) -> list[str]:
    """When evaluations began; nothing where each update has one."""
    at = trace.evaluations
    if not at or _EVALUATION in row:
        return []
    if len(at) == 1:
        return [f"evaluation once, after update {at[0]:,}"]
    every = period(at)
    return [f"evaluation every {every:,} updates" if every else f"evaluation {len(at):,} times"]


def when(row: TracedRow) -> str:
    """Of which updates this was the row: `update 6`, `10 updates, every 12th from 12`, `3 updates, first 51`."""
    if row.count == 1:
        return f"update {row.first:,}"
    if row.every and row.count > 2:  # two are always equally far apart
        often = "each" if row.every == 1 else f"every {ordinal(row.every)}"
        return f"{row.count:,} updates, {often} from {row.first:,}"
    return f"{row.count:,} updates, first {row.first:,}"


def period(at: Sequence[int]) -> int | None:
    """The distance between moments, where it is the same each time; else None. The first may come at once."""
    distances = {later - earlier for earlier, later in itertools.pairwise(at)}
    return distances.pop() if len(distances) == 1 and 0 not in distances else None


def ordinal(number: int) -> str:
    """`2nd`, `3rd`, `4th`, `11th`, `21st`."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{ending}"
