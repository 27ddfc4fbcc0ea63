"""What differs between two traces: which event moved, was added or lost, whose line changed, whose count."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from loopkit.row import folded
from loopkit.trace.align import Token, aligned
from loopkit.trace.cadence import apart_from_evaluations, batches_of, period, when
from loopkit.trace.picture import WIDTH, usual_rows, wrapped
from loopkit.trace.recorded import Trace, TracedRow

SCHEMA = 1
_KIND = "loopkit-trace-diff"


@dataclass(frozen=True, slots=True)
class Change:
    """One difference.

    Args:
        change: "moved", "added", "lost", "line", "count" or "row".
        event: its word in the row; of a "row", the row.
        before, after: what was, what is; "" where there is nothing.
    """

    change: str
    event: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two traces side by side.

    Args:
        rows: the usual rows of each, as text.
        changes: what differs.
        notes: what differs and changes nothing: numbers of lines whose text is the same, a framework's lines, times.
    """

    rows: tuple[tuple[str, ...], tuple[str, ...]]
    changes: tuple[Change, ...]
    notes: tuple[Change, ...]

    @property
    def differs(self) -> bool:
        """Whether anything does."""
        return bool(self.changes)

    def to_json(self) -> str:
        """As JSON, under a contract."""
        values = {
            "schema": SCHEMA,
            "kind": _KIND,
            "different": self.differs,
            "rows": {"before": list(self.rows[0]), "after": list(self.rows[1])},
            "changes": [asdict(change) for change in self.changes],
            "notes": [asdict(note) for note in self.notes],
        }
        return json.dumps(values, indent=1) + "\n"


def compare(before: Trace, after: Trace) -> Comparison:
    """What changed from one to the other."""
    before, after = apart_from_evaluations(before), apart_from_evaluations(after)
    rows = usual_rows(before), usual_rows(after)
    pairs = aligned(_tokens(before, rows[0]), _tokens(after, rows[1]))
    changes = [
        *_order(pairs),
        *_lines(pairs),
        *_counts(before, after, rows),
        *(_other_rows(before, after, rows[0]) if rows[0] == rows[1] else ()),
    ]
    return Comparison((tuple(rows[0]), tuple(rows[1])), tuple(changes), tuple(_notes(before, after, pairs)))


def told(compared: Comparison, names: tuple[str, str]) -> str:
    """The comparison as text."""
    wide = max(map(len, names))
    lines: list[str] = []
    for name, rows in zip(names, compared.rows, strict=True):
        for row in rows or ("never stepped",):
            first, *rest = wrapped(row, indent=" " * (wide + 2), hang="  ")
            lines += [f"{name:<{wide}}{first[wide:]}", *rest]
            name = ""
    lines.append("")
    for change in compared.changes:
        lines += _said(change)
    for note in compared.notes:
        lines += _said(Change("also", note.event, note.before, f"{note.after}, {_SAME[note.change]}"))
    lines.append("different" if compared.differs else "the same")
    return "\n".join(lines)


_SAME = {"line": "same text", "time": "by the clock"}


def _said(change: Change) -> list[str]:
    if change.change == "row":
        return [f"  row      {change.before} → {change.after}", *wrapped(change.event, indent=" " * 11)]
    head = f"  {change.change:<9}{change.event:<13}"
    ends = [end for end in (change.before, change.after) if end]
    text = " → ".join(ends)
    if len(head) + len(text) <= WIDTH:
        return [(head + text).rstrip()]
    indent = " " * len(head)
    lines = wrapped(ends[0], indent=indent, at=" ")
    for end in ends[1:]:
        lines += wrapped(f"→ {end}", indent=indent[2:], at=" ")
    return [head + lines[0][len(head) :], *lines[1:]]


# -- the usual rows --------------------------------------------------------------------------------------


def _tokens(trace: Trace, rows: Sequence[str]) -> list[Token]:
    """The events of the usual rows in order; a block that is repeated, once."""
    found = []
    for text in rows:
        row = next(each for each in trace.rows if str(each) == text)
        at = 0
        for block, times in folded(row.words):
            for word, events in row.events[at : at + len(block)]:
                found.append(Token(word, tuple(trace.events[each] for each in events), trace.folder, trace.script))
            at += len(block) * times
    return found


def _order(pairs: Sequence[tuple[Token | None, Token | None]]) -> Iterator[Change]:
    lost = [(n, mine) for n, (mine, theirs) in enumerate(pairs) if mine is not None and theirs is None]
    added = [(n, theirs) for n, (mine, theirs) in enumerate(pairs) if mine is None and theirs is not None]
    for n, token in lost:
        there = next((each for each in added if each[1].word == token.word), None)
        was = f"{_after(pairs, n, 0)} ({token.where()})"
        if there is None:
            yield Change("lost", token.word, was, "")
        else:
            added.remove(there)
            yield Change("moved", token.word, was, f"{_after(pairs, there[0], 1)} ({there[1].where()})")
    for n, token in added:
        yield Change("added", token.word, "", f"{_after(pairs, n, 1)} ({token.where()})")


def _after(pairs: Sequence[tuple[Token | None, Token | None]], n: int, side: int) -> str:
    """Behind which event one stands in its own row."""
    before = [pair[side] for pair in pairs[:n] if pair[side] is not None]
    return f"after {before[-1].word}" if before and before[-1] is not None else "first"


def _lines(pairs: Sequence[tuple[Token | None, Token | None]]) -> Iterator[Change]:
    for mine, theirs in pairs:
        if mine is not None and theirs is not None and mine.codes() != theirs.codes():
            yield Change("line", mine.word, mine.told(), theirs.told())


# -- counts ----------------------------------------------------------------------------------------------


def _counts(before: Trace, after: Trace, rows: tuple[list[str], list[str]]) -> Iterator[Change]:
    mine, theirs = _in_an_update(before, rows[0]), _in_an_update(after, rows[1])
    for word in mine:
        if word in theirs and mine[word] != theirs[word]:
            yield Change("count", word, f"{mine[word]} an update", f"{theirs[word]} an update")
    if before.updates != after.updates:
        yield Change("count", "update", f"{before.updates:,}", f"{after.updates:,}")
    was, now = _evaluations(before), _evaluations(after)
    if was != now:
        yield Change("count", "evaluation", was, now)


def _in_an_update(trace: Trace, rows: Sequence[str]) -> Counter[str]:
    counts = Counter[str]()
    for text in rows:
        row = next(each for each in trace.rows if str(each) == text)
        counts.update(word for word in row.words if word != "batch")
        counts["batch"] += batches_of(trace, text, alone=len(rows) == 1)
    return counts


def _evaluations(trace: Trace) -> str:
    at = trace.evaluations
    every = period(at)
    if every is not None:
        return f"every {every:,} updates"
    return f"{len(at):,} times" if at else "none"


def _other_rows(before: Trace, after: Trace, usual: Sequence[str]) -> Iterator[Change]:
    """Rows beside the usual ones; of runs that are equally long, also how often there were."""
    mine, theirs = _others(before, usual), _others(after, usual)
    for row in dict.fromkeys([*mine, *theirs]):
        was, now = mine.get(row), theirs.get(row)
        if was is None or now is None or (was.count != now.count and before.updates == after.updates):
            yield Change("row", row, _of_row(was), _of_row(now))


def _others(trace: Trace, usual: Sequence[str]) -> dict[str, TracedRow]:
    found: dict[str, TracedRow] = {}
    for row in trace.rows:
        text = str(row)
        if text in usual:
            continue
        known = found.get(text)
        count = row.count + (known.count if known else 0)
        first = min(row.first, known.first) if known else row.first
        found[text] = TracedRow(row.events, count, first, row.batches)
    return found


def _of_row(row: TracedRow | None) -> str:
    return "none" if row is None else when(row)


# -- notes -----------------------------------------------------------------------------------------------


def _notes(before: Trace, after: Trace, pairs: Sequence[tuple[Token | None, Token | None]]) -> Iterator[Change]:
    for mine, theirs in pairs:
        if mine is None or theirs is None or mine.codes() != theirs.codes():
            continue
        if mine.spots() != theirs.spots():
            yield Change("line", mine.word, ", ".join(mine.lines()), ", ".join(theirs.lines()))
    was, now = _time(before), _time(after)
    if was and now and was != now:
        yield Change("time", "update", was, now)


def _time(trace: Trace) -> str:
    return f"{trace.seconds / trace.updates * 1e3:.3g} ms" if trace.updates and trace.seconds else ""
