"""The training data is dealt in file order, and sorted by class."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from torch.utils.data import IterableDataset

from loopkit import Confidence, Feed, Finding, Level, Levels, Run, Severity, Site, hookimpl

_FEWEST = 8
"""Batches whose labels were counted, and samples in each: below that, one class a batch may be chance."""

_SHARE = 0.6
"""Of the classes that a batch drawn at random would hold; sorted, a batch of two classes holds one of them."""


class TrainNotShuffled:
    """Training batches hold runs of one class: the loader deals a sorted dataset in its own order.

    What it looks for
        A loader that trains without shuffling, and batches that hold less than 0.6 of the classes that as many
        samples drawn at random from the same labels would hold. The labels are those of the sampled losses.

    Why that hurts
        Each step learns one class and forgets the others, the loss follows a saw-tooth, and batch statistics are
        those of a class.

    A loop that has it
        loader = DataLoader(ImageFolder("train"), batch_size=32)
        for x, y in loader:
            train_step(x, y)

    The repair
        `shuffle=True`, or a sampler that shuffles.

    Left alone
        Data that is dealt in order and not sorted by class, such as time series, text, and what was shuffled before;
        iterable datasets; loaders with a sampler or batch sampler of their own; losses other than cross-entropy over
        classes.

    What it costs
        Nothing but when a pass or the run ends, and then one look at the 16 to 32 losses that were sampled.
    """

    rule = "train-not-shuffled"
    severity = Severity.WARNING
    confidence = Confidence.FACT

    def __init__(self) -> None:
        self._trained: Site | None = None
        self._others = False

    @hookimpl
    def loader_exhausted(self, feed: Feed) -> None:
        """Note a pass that trained in file order, or one that did not."""
        if not feed.trained:
            return
        dataset = getattr(feed.loader(), "dataset", None)
        if feed.order.sequential and not isinstance(dataset, IterableDataset):
            self._trained = feed.site
        else:
            self._others = True

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Compare the batches whose labels were counted with batches drawn at random."""
        levels = run.instrument(Levels)
        if self._trained is None or self._others or not levels.alone:
            return
        rows = [level.counts for level in levels.read() if _is_counted(level)]
        if len(rows) < _FEWEST:
            return
        held = sum(sum(count > 0 for count in row) for row in rows) / len(rows)
        expected = sum(_expected(row, rows) for row in rows) / len(rows)
        classes = sum(any(column) for column in zip(*rows, strict=True))
        if held > _SHARE * expected:
            return
        size = sum(map(sum, rows)) / len(rows)
        yield Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=self._trained.place,
            seen=f"this loader trains without shuffling, and its data is sorted: {len(rows)} batches of {size:.0f} "
            f"held {held:.1f} of {classes} classes on average; drawn at random they would hold {expected:.1f}",
            why="each step learns a class and forgets the others",
            remedy="shuffle=True, or a sampler that shuffles",
            evidence={"batches": len(rows), "held": held, "expected": expected, "classes": classes},
        )


def _is_counted(level: Level) -> bool:
    return level.kind == "NllLoss" and sum(level.counts) >= _FEWEST


def _expected(row: Sequence[float], rows: Sequence[Sequence[float]]) -> float:
    """How many classes so many samples would hold on average, were they drawn from all that were counted."""
    size, total = sum(row), sum(map(sum, rows))
    shares = [sum(column) / total for column in zip(*rows, strict=True)]
    return math.fsum(1 - (1 - share) ** size for share in shares)
