"""A trace as a picture for a terminal of 80 columns: the row of events, then each with its line, count and time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from loopkit.row import ARROW, folded
from loopkit.trace.cadence import apart_from_evaluations, batches_said, evaluations_said, when
from loopkit.trace.lines import inside, line, shortened, told
from loopkit.trace.recorded import Trace, TracedRow

WIDTH = 80
_MAIN_SHARE, _MAIN_COUNT, _MAINS = 0.2, 3, 3
"""A row of this share of the updates, and of so many, is a usual one too, as where two optimizers take turns."""
_OTHERS, _CODE = 6, 60
_NAME, _LINE, _COUNT, _EACH, _BAR = 15, 30, 7, 8, 5
_FULL, _PARTS = "█", " ▏▎▍▌▋▊▉"
Style = dict[str, str]
"""What stands before each part of a picture to colour it; empty for none."""
COLOURS: Style = {"head": "\x1b[1m", "row": "\x1b[36m", "bar": "\x1b[34m", "dim": "\x1b[2m", "odd": "\x1b[33m"}


def drawn(trace: Trace, *, colour: bool = False, utf8: bool = True) -> str:
    """The whole picture.

    Args:
        trace: what was recorded.
        colour: with the colours of a terminal.
        utf8: with arrows and bars; else in ASCII.
    """
    trace = apart_from_evaluations(trace)
    style = COLOURS if colour else {}
    usual = usual_rows(trace)
    lines = [_head(trace, style), ""]
    if not trace.rows:
        lines += _never_stepped(trace)
    for row in usual:
        lines += _row(trace, row, usual, style)
    lines += _inside(trace)
    if trace.events:
        lines += ["", *_table(trace, usual, style)]
    lines += _others(trace, usual, style)
    if trace.device:
        lines += ["", "  Times are the host's: a device may work on while it goes on."]
    text = "\n".join(lines)
    return text if utf8 else plain(text)


def usual_rows(trace: Trace) -> list[str]:
    """The rows that updates usually consist of, as text: one, or those of optimizers that take turns."""
    counts = Counter[str]()
    for row in trace.rows:
        counts[str(row)] += row.count
    ranked = counts.most_common(_MAINS)
    least = max(_MAIN_COUNT, _MAIN_SHARE * trace.updates)
    return [row for n, (row, count) in enumerate(ranked) if n == 0 or count >= least]


def _head(trace: Trace, style: Style) -> str:
    text = f"{trace.script}  {counted(trace.updates, 'update')} in {_seconds(trace.seconds)}"
    return _in(style, "head", text)


def _never_stepped(trace: Trace) -> list[str]:
    if not trace.unfinished:
        return ["  no optimizer step was executed, and nothing that leads to one was seen"]
    return [*wrapped(trace.unfinished), "  never stepped"]


def _row(trace: Trace, row: str, usual: Sequence[str], style: Style) -> list[str]:
    count = sum(each.count for each in trace.rows if str(each) == row)
    share = f"all {counted(count, 'update')}" if count == trace.updates else f"{count:,} of {trace.updates:,} updates"
    said = [share, *batches_said(trace, row, alone=len(usual) == 1)]
    if row == usual[0]:
        said += evaluations_said(trace, row)
    lines = [_in(style, "row", line) for line in wrapped(row)]
    return [*lines, *wrapped("; ".join(said), indent="    ", at=" ")]


def _inside(trace: Trace) -> list[str]:
    lines = []
    for event in inside(trace):
        if event.place is not None:
            where = told(trace, event.place)
            lines += wrapped(f"inside {event.code[:_CODE] or 'a call'} at {where}", indent="    ", at=" ")
    return lines


# -- the table -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Cell:
    """One line of the table: what stands in the gutter, the word, and which events."""

    gutter: str
    name: str
    at: tuple[int, ...]


def _table(trace: Trace, usual: Sequence[str], style: Style) -> list[str]:
    head = f"    {'':<{_NAME}} {'line':<{_LINE}} {'times':>{_COUNT}} {'each':>{_EACH}} {'share':>6}"
    lines = [_in(style, "dim", head)]
    shown: set[int] = set()
    for n, row in enumerate(usual):
        if n:
            lines.append("")
        for cell in _cells(next(each for each in trace.rows if str(each) == row)):
            lines += _cell(trace, cell, shown, style)
    rest = [at for at in range(len(trace.events)) if at not in shown]
    if rest and usual:
        lines.append("")
    for at in rest:
        lines += _cell(trace, _Cell(" ", trace.events[at].event, (at,)), shown, style)
    return lines + _between(trace, style)


def _cells(row: TracedRow) -> list[_Cell]:
    """The lines of a row; a block that is repeated has a bracket."""
    cells = []
    at = 0
    for block, times in folded(row.words):
        for n, word in enumerate(block):
            events = tuple(
                dict.fromkeys(each for lap in range(times) for each in row.events[at + n + lap * len(block)][1])
            )
            name = f"{word} ×{times}" if times > 1 and n == len(block) - 1 else word
            gutter = " "
            if times > 1 and len(block) > 1:
                gutter = "┌" if n == 0 else "└" if n == len(block) - 1 else "│"
            cells.append(_Cell(gutter, name, events))
        at += len(block) * times
    return cells


def _cell(trace: Trace, cell: _Cell, shown: set[int], style: Style) -> list[str]:
    by_line: dict[str, list[int]] = {}
    for at in cell.at:
        by_line.setdefault(line(trace, trace.events[at]), []).append(at)
    lines = []
    for n, (where, ats) in enumerate(by_line.items()):
        gutter = cell.gutter if n == 0 else {"┌": "│", "│": "│"}.get(cell.gutter, " ")
        head = f"  {gutter} {cell.name if n == 0 else '':<{_NAME}} {shortened(where, _LINE):<{_LINE}}"
        new = [trace.events[at] for at in ats if at not in shown]
        if new:
            seconds = None if new[0].seconds is None else sum(event.seconds or 0.0 for event in new)
            lines.append(f"{head} {_numbers(trace, sum(event.count for event in new), seconds, style)}".rstrip())
        else:
            lines.append(f"{head} {_in(style, 'dim', 'as above')}")
        shown |= set(ats)
    return lines


def _numbers(trace: Trace, count: int | None, seconds: float | None, style: Style) -> str:
    times = "" if count is None else f"{count:,}" if count < 1_000_000 else f"{count / 1e6:,.1f} M"
    if seconds is None:
        return f"{times:>{_COUNT}} {'–':>{_EACH}}"
    share = min(1.0, seconds / trace.seconds) if trace.seconds else 0.0
    each = _each(seconds / count) if count else ""
    return f"{times:>{_COUNT}} {each:>{_EACH}} {share:>6.1%} {_in(style, 'bar', _bar(share))}"


def _between(trace: Trace, style: Style) -> list[str]:
    """What is none of the events: the loop's own code between them, and a part of the tracing."""
    if not trace.seconds:
        return []
    rest = max(0.0, trace.seconds - sum(event.seconds or 0.0 for event in trace.events))
    what = "your code, and tracing"
    numbers = _numbers(trace, None, rest, style)
    return ["", f"    {'between them':<{_NAME}} {what:<{_LINE}} {numbers}".rstrip()]


def _bar(share: float) -> str:
    eighths = min(_BAR * 8, round(share * _BAR * 8))
    whole, part = divmod(eighths, 8)
    return (_FULL * whole + _PARTS[part]).rstrip()


# -- what was otherwise ----------------------------------------------------------------------------------


def _others(trace: Trace, usual: Sequence[str], style: Style) -> list[str]:
    """Rows that are not the usual ones, and usual ones from other lines."""
    lines: list[str] = []
    shown: dict[str, TracedRow] = {}
    rows = 0
    rest = trace.untold
    for row in trace.rows:
        text = str(row)
        if text in usual and text not in shown:
            shown[text] = row
        elif rows == _OTHERS:
            rest += row.count
        else:
            rows += 1
            lines += _other(trace, row, shown.get(text) if text in usual else None, style)
    if rest:
        lines.append(f"  and {counted(rest, 'update')} with other rows")
    if trace.unfinished and trace.rows:
        lines += wrapped(f"after the last step: {trace.unfinished}", at=ARROW)
    return ["", _in(style, "dim", "  otherwise"), *lines] if lines else []


def _other(trace: Trace, row: TracedRow, same: TracedRow | None, style: Style) -> list[str]:
    at = when(row)
    if same is None:
        return [*(_in(style, "odd", line) for line in wrapped(str(row))), f"    {at}"]
    moved = []
    for (word, mine), (_, usual) in zip(row.events, same.events, strict=True):
        for event in (trace.events[each] for each in mine if each not in usual):
            moved.append(f"{word} {line(trace, event)}")
    text = ", ".join(dict.fromkeys(moved)) or "other lines"
    return [*wrapped(f"the usual events, but: {text}", at=" "), f"    {at}"]


# -- words -----------------------------------------------------------------------------------------------


def counted(number: int, noun: str) -> str:
    """`1 update`, `1,200 updates`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _each(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.2f} s" if seconds < 1000 else f"{seconds:.0f} s"
    digits = 3 if seconds < 1e-3 else 2 if seconds < 1e-2 else 1
    return f"{seconds * 1e3:.{digits}f} ms"


def _seconds(seconds: float) -> str:
    return f"{seconds:,.1f} s" if seconds >= 1 else f"{seconds * 1e3:.0f} ms"


def wrapped(text: str, indent: str = "  ", at: str = ARROW, hang: str = "  ") -> list[str]:
    """Lines of at most 80 columns, broken after an arrow or a space."""
    lines = [indent]
    words = text.split(at)
    for n, word in enumerate(words):
        piece = word + (at if n < len(words) - 1 else "")
        if len((lines[-1] + piece).rstrip()) > WIDTH and lines[-1].strip():
            lines.append(indent + hang)
        lines[-1] += piece
    return [line.rstrip() for line in lines]


def _in(style: Style, name: str, text: str) -> str:
    return f"{style[name]}{text}\x1b[0m" if text and name in style else text


_PLAIN = str.maketrans({"→": ">", "×": "x", "┌": "/", "│": "|", "└": "\\", "…": "~", "–": "-", "█": "#"})


def plain(text: str) -> str:
    """The text in ASCII."""
    for part in _PARTS[1:]:
        text = text.replace(part, "#" if part in "▌▋▊▉" else "")
    return text.translate(_PLAIN).encode("ascii", "replace").decode()
