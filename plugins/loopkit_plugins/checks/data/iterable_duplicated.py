"""Each worker of a loader deals the whole stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from loopkit import Confidence, Feed, Finding, Run, Severity, hookimpl

_MOST = 64  # passes that are not over yet


class IterableDuplicated:
    """An IterableDataset yields its whole stream once in each worker: every sample comes several times.

    What it looks for
        A loader over an IterableDataset with several workers, which take turns: the first batch of each worker is the
        same, tensor by tensor, and the one after them is another.

    Why that hurts
        An epoch is as many times longer as there are workers, each sample is seen that often in a row, and scores
        count it that often.

    A loop that has it
        class Lines(IterableDataset):
            def __iter__(self):
                return iter(open("data.txt"))
        loader = DataLoader(Lines(), num_workers=4)

    The repair
        Let each worker deal its share: `itertools.islice(stream, info.id, None, info.num_workers)`, where `info` is
        `torch.utils.data.get_worker_info()`; the same for ranks.

    Left alone
        One worker or none; streams of random samples; datasets that shard themselves; samples that are all alike;
        passes of fewer batches than there are workers, and one; batches that hold no tensors.

    What it costs
        Of the first batches of such a pass, one for each worker, a comparison; of the first a copy of 4,096 elements
        of each tensor. Of other loaders nothing.
    """

    rule = "iterable-duplicated"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._open: list[tuple[Feed, int]] = []

    @hookimpl
    def loader_started(self, loader: Any, feed: Feed) -> Iterator[Finding]:
        """Note a pass, which may never end; judge those before."""
        yield from self._judge()
        if getattr(loader, "num_workers", 0) > 1:
            self._open = [*self._open[1 - _MOST :], (feed, loader.num_workers)]

    @hookimpl
    def loader_exhausted(self) -> Iterator[Finding]:
        """Judge passes."""
        yield from self._judge()

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Judge what is left."""
        yield from self._judge()

    def _judge(self) -> Iterator[Finding]:
        found = [each for each in self._open if each[0].twins and (each[0].trained or each[0].evaluated)]
        self._open = [each for each in self._open if each not in found and not each[0].ends]
        for feed, workers in found:
            yield Finding(
                rule=self.rule,
                severity=self.severity,
                confidence=self.confidence,
                place=feed.site.place,
                seen=f"the first batches of the {workers} workers of this loader were the same, tensor by tensor: "
                "each deals the whole stream of its IterableDataset",
                why=f"every sample comes {workers} times, and an epoch is {workers} times as long",
                remedy="let each worker deal its share, by torch.utils.data.get_worker_info()",
                evidence={"workers": workers},
            )
