"""An iterator that can be walked once is walked again: later epochs have no batch."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator
from typing import Any

from torch.utils.data import IterableDataset

from loopkit import Confidence, Feed, Finding, Place, Run, Severity, hookimpl


class LoaderExhausted:
    """What is looped over in each epoch can be walked only once: later epochs have no batch, and nothing complains.

    What it looks for
        A `for` that asks a DataLoader's iterator for batches which had already said that it has no more; or a
        DataLoader whose first pass had batches and whose later one has none, because its dataset or sampler is an
        iterator (a generator, a `zip`, a `map`), which does not begin anew.

    Why that hurts
        Only the first epoch trains. The others end at once, and what they report is that of no batch.

    A loop that has it
        batches = iter(loader)
        for epoch in range(epochs):
            for x, y in batches:
                train_step(x, y)

    The repair
        Loop over the DataLoader itself, `for x, y in loader`, which makes a new iterator for each epoch; write a
        dataset or sampler whose `__iter__` begins anew.

    Left alone
        `next()` on an iterator that is made anew when it ends; pieces of one long pass (`islice`), the last of which
        may be empty; frameworks' own loops; a generator of the user's that asks once more; a stream that was empty
        only once, unless it is an iterator itself.

    What it costs
        Nothing but at the end of a pass; where one is asked again, a search for who holds the iterator, once.
    """

    rule = "loader-exhausted"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._empty: dict[int, int] = {}

    @hookimpl
    def loader_exhausted(self, run: Run, loader: Any, feed: Feed) -> Finding | None:
        """Judge a pass that had no batch."""
        if not feed.asked_by or run.loop is not None:
            return None
        if feed.ends > 1 and feed.batches:
            if feed.ends == 2 and (feed.asked_by == "generator" or _in_pieces(feed.iterator())):
                return None
            return self._again(feed)
        if feed.ends == 1 and not feed.batches and feed.most and feed.asked_by == "for":
            kind = _one_shot(loader)
            self._empty[id(loader)] = self._empty.get(id(loader), 0) + 1
            if kind and (kind != _STREAM or self._empty[id(loader)] > 1):
                return self._without(feed, kind)
        return None

    def _again(self, feed: Feed) -> Finding:
        assert feed.ended_at is not None
        return self._finding(
            feed.site.place,
            {"asked again": feed.ended_at.place},
            f"an iterator over a DataLoader had handed out all its {feed.batches} batches when the loop at "
            f"{feed.ended_at.place} began with it again: no batch was left",
            f"loop over the DataLoader itself, or make the iterator of {feed.site.place} anew in each epoch",
            {"batches": feed.batches, "pass": feed.ordinal},
        )

    def _without(self, feed: Feed, kind: str) -> Finding:
        return self._finding(
            feed.site.place,
            {},
            f"pass {feed.ordinal} over a DataLoader had no batch; an earlier one had {feed.most}: {kind}",
            "give the DataLoader a dataset or sampler whose __iter__ begins anew each time",
            {"batches": feed.most, "pass": feed.ordinal},
        )

    def _finding(
        self, place: Place, places: dict[str, Place], seen: str, remedy: str, evidence: dict[str, Any]
    ) -> Finding:
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=place,
            places=places,
            seen=seen,
            why="an iterator can be walked once: this epoch is empty, so nothing is learned or measured in it",
            remedy=remedy,
            evidence=evidence,
        )


_STREAM = "its dataset is a stream that gave nothing any more, again and again"


def _one_shot(loader: Any) -> str:
    """Why a loader cannot be walked twice; "" where it can, as far as is known."""
    dataset = getattr(loader, "dataset", None)
    if isinstance(dataset, IterableDataset):
        return "its dataset is an iterator" if isinstance(dataset, Iterator) else _STREAM
    sampler = getattr(loader, "batch_sampler", None)
    for each in (sampler, getattr(sampler, "sampler", None), getattr(loader, "sampler", None)):
        if isinstance(each, Iterator):
            return f"its sampler is an iterator, a {type(each).__name__}"
    return ""


def _in_pieces(iterator: Any) -> bool:
    """Whether something takes a few batches at a time, and may expect that there are none."""
    pieces = (itertools.islice, itertools.takewhile)
    return any(isinstance(holder, pieces) for holder in gc.get_referrers(iterator))
