"""How often each shape of update occurred in a run, and the record of one in the words of checks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from loopkit.callsite import Site
from loopkit.clips import RawClip
from loopkit.clips import told as told_of_clip
from loopkit.holdings import Owner
from loopkit.lossgraph import RawLoss
from loopkit.lossgraph import told as told_of_loss
from loopkit.reading import told
from loopkit.row import Rows, row_of
from loopkit.scaling import RawUnscale, told_of_unscaling
from loopkit.schedulers import advance_told
from loopkit.signature import EPOCH, Signature, kind_of, subject_of
from loopkit.update import Event, LoaderReading, Reading, Update

SIGNATURES = 4096
"""Signatures remembered; beyond that the oldest is forgotten, and would count as new again."""

Raw = Any
"""What a tap read, before anybody asked to know: one of the tuples that `in_words` tells apart; or None."""
RawEvent = tuple[int, Site | None, Raw]


class History:
    """Counts updates by their signature.

    Attributes:
        updates: of any signature, so far.
        occurrences: updates of each signature.
    """

    def __init__(self) -> None:
        self.updates = 0
        self.occurrences: dict[Signature, int] = {}
        self._rows = Rows()

    def count(self, signature: Signature) -> int:
        """Count an update; returns how many of its signature there have been."""
        seen = self.occurrences.get(signature, 0) + 1
        self.occurrences[signature] = seen
        self.updates += 1
        if seen == 1 and len(self.occurrences) > SIGNATURES:
            oldest = next(iter(self.occurrences))
            self._rows.retire(_words(oldest), self.occurrences.pop(oldest))
        return seen

    def update(self, events: list[RawEvent], signature: Signature, steps: int, *, truncated: bool) -> Update:
        """The record of an update that was counted last."""
        seen = self.occurrences.get(signature, 0)
        return Update(steps, seen, self.updates, hash(signature), in_words(events), truncated)

    def rows(self) -> list[tuple[str, int]]:
        """Each row of events and how many updates consisted of it, the most frequent first."""
        words: dict[tuple[str, ...], int] = {}
        for signature, count in self.occurrences.items():
            names = tuple(_words(signature))
            words[names] = words.get(names, 0) + count
        return self._rows.table(words)


def row(events: list[RawEvent]) -> str:
    """Events as a row of words."""
    return row_of(_words([code for code, _, _ in events]))


def in_words(events: list[RawEvent]) -> tuple[Event, ...]:
    """Events with their readings, as checks see them."""
    return tuple(Event(kind_of(code), site, subject_of(code), _told(raw)) for code, site, raw in events)


def _words(codes: Iterable[int]) -> list[str]:
    # Where an epoch begins matters to checks; to a reader its updates are like the others.
    return [kind_of(code) for code in codes if code & 15 != EPOCH]


def _told(raw: Raw) -> Reading:
    if raw is None:
        return None
    if isinstance(raw, RawLoss):
        return told_of_loss(raw)
    if isinstance(raw, RawClip):
        return told_of_clip(raw)
    if isinstance(raw, RawUnscale):
        return told_of_unscaling(raw)
    if isinstance(raw[0], Owner):
        return told(raw)
    if len(raw) == 2:
        return LoaderReading(*raw)
    return advance_told(raw)
