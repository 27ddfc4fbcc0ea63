"""A DistributedSampler deals the same order in each epoch, because nobody told it the epoch."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Feed, Finding, Run, Severity, hookimpl

_MOST = 16  # loaders of which the last pass is kept to be judged


class SamplerEpochNotSet:
    """`DistributedSampler.set_epoch` is not called: every epoch has the same order, on every rank.

    What it looks for
        Two passes of one training over a loader with a shuffling DistributedSampler of torch, at which the number
        that seeds its order (`seed + epoch`) was the same.

    Why that hurts
        The data is shuffled once and never again: each epoch has the same batches in the same order, each rank sees
        the same share of the data for ever, and with `drop_last` the same samples are left out each time.

    A loop that has it
        loader = DataLoader(dataset, sampler=DistributedSampler(dataset))
        for epoch in range(epochs):
            for x, y in loader:
                train_step(x, y)

    The repair
        Call `sampler.set_epoch(epoch)` before each epoch.

    Left alone
        `shuffle=False`; samplers with an order of their own; one epoch; a first batch taken to look at it;
        evaluation; a second training with another optimizer. Lightning, HF Trainer and Accelerate set the epoch.

    What it costs
        Nothing but at the beginning and end of a pass.
    """

    rule = "sampler-epoch-not-set"
    severity = Severity.WARNING
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._open: list[Feed] = []

    @hookimpl
    def loader_started(self, feed: Feed) -> Iterator[Finding]:
        """Judge the pass before, if it was left without asking for its end."""
        if feed.before is not None:
            yield from self._judge(feed.before)
        if feed.order.epoch is not None:
            others = [each for each in self._open if each.loader() is not feed.loader()][-_MOST:]
            self._open = [*others, feed]

    @hookimpl
    def loader_exhausted(self, feed: Feed) -> Iterator[Finding]:
        """Judge a pass that is over."""
        yield from self._judge(feed)

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Judge the last pass of each loader."""
        for feed in list(self._open):
            yield from self._judge(feed)

    def _judge(self, feed: Feed) -> Iterator[Finding]:
        before, epoch = feed.before, feed.order.epoch
        if feed not in self._open or before is None or before.order.epoch != epoch:
            return
        if not feed.trained or not feed.goes_on_from(before):
            return
        self._open.remove(feed)
        yield Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=feed.site.place,
            seen=f"passes {before.ordinal} and {feed.ordinal} over this loader trained in the same order: its "
            f"{feed.order.sampler} shuffles by the number {epoch} (seed + epoch) in both",
            why="every epoch has the same batches in the same order: the data is shuffled once and never again",
            remedy="call sampler.set_epoch(epoch) before each epoch",
            evidence={"sampler": feed.order.sampler, "seed_and_epoch": epoch, "pass": feed.ordinal},
        )
