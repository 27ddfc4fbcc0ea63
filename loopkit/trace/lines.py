"""Which line is shown for an event: the user's own, or the framework's where one of the user's stands for all."""

from __future__ import annotations

from loopkit.finding import Place
from loopkit.trace.recorded import Trace, TracedEvent, relative


def inside(trace: Trace) -> list[TracedEvent]:
    """An event for each line of the user's behind which a framework makes several kinds of events, most of them
    first.
    """
    kinds: dict[Place, set[str]] = {}
    first: dict[Place, TracedEvent] = {}
    for event in trace.events:
        if event.place is not None and event.framework is not None:
            kinds.setdefault(event.place, set()).add(event.event)
            first.setdefault(event.place, event)
    shared = [place for place, words in kinds.items() if len(words) > 2]
    return [first[place] for place in sorted(shared, key=lambda place: -len(kinds[place]))]


def line(trace: Trace, event: TracedEvent) -> str:
    """Where a reader would look for an event: `train.py:31`, or `transformers/trainer.py:1946`."""
    shared = {each.place for each in inside(trace)}
    place = event.place if event.place is not None and event.place not in shared else event.line
    return "(no line)" if place is None else told(trace, place)


def told(trace: Trace, place: Place) -> str:
    """`train.py:31`."""
    return f"{relative(place.file, trace.folder)}:{place.line}"


def shortened(text: str, width: int) -> str:
    """A path that fits: without its middle, or else without its beginning."""
    if len(text) <= width:
        return text
    parts = text.split("/")
    for ends in (f"{parts[0]}/…/{parts[-1]}" if parts[0] else "", f"…/{parts[-1]}"):
        if len(parts) > 1 and 0 < len(ends) <= width:
            return ends
    return "…" + text[1 - width :]
