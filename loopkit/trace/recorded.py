"""A recorded trace as plain data, and as JSON: which events an update consists of, where, how often, how long."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import loopkit
from loopkit.errors import UsageError
from loopkit.finding import Place
from loopkit.row import row_of

SCHEMA = 1
LONGEST = 4096
"""Events of an update that are kept, as in its record."""
_KIND = "loopkit-trace"


@dataclass(frozen=True, slots=True)
class TracedEvent:
    """One kind of event at one place.

    Args:
        event: its word in the row.
        place: the user's line; None where no frame was the user's.
        framework: the framework's line, where one lies between the user's and torch.
        code: the text of the user's line, without what stands around it.
        count: how often it happened in the run.
        seconds: all of them together; None where there was nothing to time.
    """

    event: str
    place: Place | None
    framework: Place | None
    code: str
    count: int
    seconds: float | None

    @property
    def line(self) -> Place | None:
        """Where the call stands: the framework's line, or else the user's."""
        return self.framework or self.place


@dataclass(frozen=True, slots=True)
class TracedRow:
    """A row of events that updates consisted of.

    Args:
        events: each as its word, and which of the trace's events it was: several, from several lines.
        count: how many updates.
        first: the number of the first of them, from 1.
        batches: how many were taken to train on in all of them.
        every: how many updates from one of them to the next, where that is always the same.
    """

    events: tuple[tuple[str, tuple[int, ...]], ...]
    count: int
    first: int
    batches: int
    every: int | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """The events as words."""
        return tuple(word for word, _ in self.events)

    def __str__(self) -> str:
        """The row as a line of text."""
        return _text(self.words)


@functools.lru_cache(maxsize=1024)
def _text(words: tuple[str, ...]) -> str:
    return row_of(words, LONGEST)


@dataclass(frozen=True, slots=True)
class Trace:
    """What a loop did.

    Args:
        script: as it was given.
        folder: the working directory when it began.
        updates: executed, of any row.
        seconds: from the first event to the end of the last.
        rows: the most frequent first.
        untold: updates whose rows were too many to keep.
        events: in the order in which they were met.
        evaluations: after how many updates each of the first evaluations began.
        unfinished: what happened since the last executed step, as a row.
        device: a device worked beside the host, whose clock this is.
    """

    script: str
    folder: str
    updates: int
    seconds: float
    rows: tuple[TracedRow, ...]
    untold: int
    events: tuple[TracedEvent, ...]
    evaluations: tuple[int, ...]
    unfinished: str
    device: bool

    def to_dict(self) -> dict[str, Any]:
        """As plain values, under a contract: field names change only with a note in the README."""
        return {
            "schema": SCHEMA,
            "kind": _KIND,
            "loopkit": loopkit.__version__,
            "script": self.script,
            "folder": self.folder,
            "updates": self.updates,
            "seconds": round(self.seconds, 6),
            "rows": [_row(row) for row in self.rows],
            "untold": self.untold,
            "events": [_event(event, self.seconds) for event in self.events],
            "evaluations": list(self.evaluations),
            "unfinished": self.unfinished,
            "device": self.device,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Trace:
        """The inverse of `to_dict`.

        Raises:
            KeyError, TypeError, ValueError: this is not a trace.
        """
        return cls(
            script=str(values["script"]),
            folder=str(values["folder"]),
            updates=int(values["updates"]),
            seconds=float(values["seconds"]),
            rows=tuple(_row_from(row) for row in values["rows"]),
            untold=int(values["untold"]),
            events=tuple(_event_from(event) for event in values["events"]),
            evaluations=tuple(map(int, values["evaluations"])),
            unfinished=str(values["unfinished"]),
            device=bool(values["device"]),
        )

    def to_json(self) -> str:
        """The text of a file that `read` reads."""
        return json.dumps(self.to_dict(), indent=1) + "\n"


def read(path: Path) -> Trace:
    """A trace that `loopkit trace --format json --output FILE` has written.

    Raises:
        UsageError: it cannot be read, is something else, or comes from a newer loopkit.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {str(path)!r}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"cannot read {str(path)!r}: it is not JSON ({error}); {_MAKE}") from None
    if not isinstance(values, dict) or values.get("kind") != _KIND:
        raise UsageError(f"{str(path)!r} is no trace; {_MAKE}")
    if values.get("schema") != SCHEMA:
        schema, version = values.get("schema"), values.get("loopkit")
        raise UsageError(
            f"{str(path)!r} has schema {schema!r} (loopkit {version}), and this loopkit reads {SCHEMA}: "
            "install that loopkit, or trace again"
        )
    try:
        trace = Trace.from_dict(values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{str(path)!r} is a broken trace ({error!r}): trace again") from None
    if any(at >= len(trace.events) for row in trace.rows for _, each in row.events for at in each):
        raise UsageError(f"{str(path)!r} is a broken trace (a row names an event that is not there): trace again")
    return trace


_MAKE = "make one with: loopkit trace --format json --output FILE SCRIPT"


def relative(file: str, folder: str) -> str:
    """A path as one would type it from `folder`; of installed code, from where packages lie."""
    for packages in ("site-packages", "dist-packages"):
        _, found, inside = file.rpartition(f"{os.sep}{packages}{os.sep}")
        if found:
            return inside
    if file.startswith("<"):
        return file
    path = os.path.relpath(file, folder)
    return file if path.startswith(os.pardir) else path


def _row(row: TracedRow) -> dict[str, Any]:
    return {
        "row": str(row),
        "count": row.count,
        "first": row.first,
        "every": row.every,
        "batches": row.batches,
        "events": [{"event": word, "at": list(at)} for word, at in row.events],
    }


def _row_from(values: Mapping[str, Any]) -> TracedRow:
    events = tuple((str(each["event"]), tuple(map(int, each["at"]))) for each in values["events"])
    every = None if values["every"] is None else int(values["every"])
    return TracedRow(events, int(values["count"]), int(values["first"]), int(values["batches"]), every)


def _event(event: TracedEvent, whole: float) -> dict[str, Any]:
    seconds = event.seconds
    return {
        "event": event.event,
        "place": event.place.to_dict() if event.place else None,
        "framework": event.framework.to_dict() if event.framework else None,
        "code": event.code,
        "count": event.count,
        "seconds": None if seconds is None else round(seconds, 9),
        "share": None if seconds is None else round(seconds / whole, 5) if whole else 0.0,
    }


def _event_from(values: Mapping[str, Any]) -> TracedEvent:
    place, framework, seconds = values["place"], values["framework"], values["seconds"]
    return TracedEvent(
        event=str(values["event"]),
        place=None if place is None else Place.from_dict(place),
        framework=None if framework is None else Place.from_dict(framework),
        code=str(values["code"]),
        count=int(values["count"]),
        seconds=None if seconds is None else float(seconds),
    )
