"""The events of the current update, folded into a row as the report's rows are, and the rows there have been."""

from __future__ import annotations

from dataclasses import dataclass, field

from loopkit import Kind, Place

_LONGEST = 4096  # events of an update that are kept, as in its record
_ROWS = 100

Key = tuple[str, Place | None, Place | None]
"""What makes events one: their word, the user's line, and the framework's."""


@dataclass(slots=True)
class Entry:
    """One event of a row: those of one kind that follow each other, by their places."""

    kind: Kind
    parts: dict[Key, list[int]] = field(default_factory=dict)  # how often, and how long in ns

    def add(self, key: Key, took: int | None) -> None:
        """One more at this place."""
        part = self.parts.setdefault(key, [0, 0])
        part[0] += 1
        part[1] += took or 0


@dataclass(slots=True)
class Shape:
    """What is kept of a row: which events stand at each place in it, and of which updates it was the row."""

    words: tuple[str, ...]
    keys: list[dict[Key, None]]
    first: int
    count: int = 0
    batches: int = 0
    last: int = 0
    every: int | None = None  # updates from one to the next, as long as it is the same; 0 once it is not

    def occurred(self, number: int, batches: int) -> None:
        """The update of this number had this row."""
        if self.count:
            gap = number - self.last
            self.every = gap if self.every in (None, gap) else 0
        self.count += 1
        self.batches += batches
        self.last = number


class Shapes:
    """Rows of updates.

    Attributes:
        updates: so far.
        events: how often each happened and how long all of them took.
        entries: of the current update.
        untold: updates whose rows were too many to keep.
    """

    def __init__(self) -> None:
        self.updates = 0
        self.untold = 0
        self.events: dict[Key, list[int]] = {}
        self.entries: list[Entry] = []
        self._batches = 0
        self._evaluated = 0  # when its last forward ended
        self._shapes: dict[tuple[tuple[str, tuple[Place | None, ...]], ...], Shape] = {}

    def add(self, kind: Kind, key: Key, took: int | None) -> None:
        """An event of the current update. Batches that follow each other are one event, and so are forwards."""
        entries = self.entries
        if kind is Kind.BATCH:
            self._batches += 1
        if not entries or entries[-1].kind is not kind or kind not in (Kind.BATCH, Kind.FORWARD):
            entries.append(Entry(kind))
        entries[-1].add(key, took)

    def add_to_forward(self, key: Key, took: int | None) -> bool:
        """What is a part of the forward before it, such as a criterion. Returns whether there is one."""
        if not self.entries or self.entries[-1].kind is not Kind.FORWARD:
            return False
        self.entries[-1].parts.setdefault(key, [0, 0])[1] += took or 0
        return True

    def add_late(self, kind: Kind, took: int | None) -> None:
        """The last event of this kind, which was added when it began, is over."""
        entry = next((each for each in reversed(self.entries) if each.kind is kind), None)
        if entry is not None and took is not None:
            next(iter(entry.parts.values()))[1] += took

    def evaluated(self, key: Key, took: int | None, now: int) -> bool:
        """A forward without gradients. Those that follow each other are one evaluation, which lasts from the request
        for its first batch to the end of its last forward. Returns whether it is the first.
        """
        entries = self.entries
        waited = 0
        if entries and entries[-1].kind is Kind.BATCH:
            parts = entries.pop().parts.values()
            waited = sum(part[1] for part in parts)
            self._batches -= sum(part[0] for part in parts)
        since, self._evaluated = self._evaluated, now
        if not entries or entries[-1].kind is not Kind.EVALUATION:
            entries.append(Entry(Kind.EVALUATION))
            entries[-1].add(key, waited + (took or 0))
            return True
        entries[-1].parts.setdefault(key, [1, 0])[1] += now - since
        return False

    def close(self) -> None:
        """The update is over."""
        self.updates += 1
        kept = self.entries[:_LONGEST]
        name = tuple((entry.kind.value, tuple(dict.fromkeys(key[1] for key in entry.parts))) for entry in kept)
        shape = self._shapes.get(name)
        if shape is None and len(self._shapes) < _ROWS:
            words = tuple(entry.kind.value for entry in kept)
            shape = self._shapes[name] = Shape(words, [{} for _ in kept], self.updates)
        if shape is None:
            self.untold += 1
        else:
            shape.occurred(self.updates, self._batches)
            for known, entry in zip(shape.keys, kept, strict=True):
                known.update(dict.fromkeys(entry.parts))
        self.flush()

    def flush(self) -> None:
        """Count the events of the current update, and begin the next."""
        for entry in self.entries:
            for key, (count, took) in entry.parts.items():
                whole = self.events.setdefault(key, [0, 0])
                whole[0] += count
                whole[1] += took
        self.entries = []
        self._batches = 0

    def by_count(self) -> list[Shape]:
        """The rows, the most frequent first."""
        return sorted(self._shapes.values(), key=lambda shape: (-shape.count, shape.first))
