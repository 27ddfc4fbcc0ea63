"""Micro-batches of one window average over different numbers of targets, and the averages are averaged."""

from __future__ import annotations

from dataclasses import dataclass

from loopkit import Confidence, Finding, LossReading, LossTerm, Run, Severity, Update, Window, Windows, hookimpl

_LIKE = 1.1  # counts that differ by less: a few padded tokens, void pixels
_MATERIAL = 1.5  # a target weighs half as much again as another; batches of sentences of a like length stay below
_RARE = 20  # windows, of which one may be odd
_AT_LEAST = 2
_CLOSE = 1e-3


class AccumMeanOfMeans:
    """Each micro-batch averages its loss over its own targets, though they have unequal numbers of them.

    What it looks for
        Accumulation windows with cross-entropy whose micro-batches all weigh the same, while the numbers of targets
        that count (those not ignored) differ, by half or more in more than one of twenty windows. Both are read from
        the graph of each loss: the mean, or a sum divided by the micro-batch's own count.

    Why that hurts
        The mean of means is not the mean over the window: a token of a short micro-batch weighs more than one of
        a long one. The loss differs from that of the same batch without accumulation, and so does what is learned:
        short answers are over-weighted.

    A loop that has it
        for i, (tokens, labels) in enumerate(loader):  # padded with ignore_index
            loss = F.cross_entropy(model(tokens).transpose(1, 2), labels)
            (loss / k).backward()
            if (i + 1) % k == 0:
                optimizer.step()
                optimizer.zero_grad()

    The repair
        Use `reduction="sum"` and divide by the number of targets of the whole window, which has to be counted before
        its first backward. In HF Trainer hand `num_items_in_batch` to the loss.

    Left alone
        Equal counts; sums divided by the window's count; class weights, whose count the graph does not tell; one
        smaller batch at the end of the data; counts that differ by less than a half are only said (info), by less
        than a tenth not even that; micro-batches that are weighted on purpose; several losses of one batch, several
        loaders.

    What it costs
        Nothing beyond the reading of the loss graph. The counts are read when a window of a new shape, or the 2nd,
        4th, 8th … of its shape, is judged: then a transfer of one number a micro-batch.
    """

    rule = "accum-mean-of-means"
    severity = Severity.WARNING
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._seen: dict[int, _Seen] = {}

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> None:
        """Compare how many targets each micro-batch of a window averaged over."""
        for window in run.instrument(Windows).of(update):
            if window.size < 2 or window.several_loaders or not window.of_micro_batches or not window.alike:
                continue
            counts = _counts(window)
            if counts is None:
                continue
            seen = self._seen.setdefault(window.site.number, _Seen())
            seen.add(counts, window, update.number)
            if seen.material >= _AT_LEAST and seen.material * _RARE > seen.windows:
                self._report(run, seen, Severity.WARNING)

    @hookimpl
    def run_finished(self, run: Run) -> None:
        """Say what differs too little, or was seen too seldom, to be sure of harm."""
        for seen in self._seen.values():
            if seen.uneven * _RARE > seen.windows:
                self._report(run, seen, Severity.INFO)

    def _report(self, run: Run, seen: _Seen, severity: Severity) -> None:
        if seen.reported or seen.worst is None:
            return
        seen.reported = True
        window, counts = seen.worst, seen.counts
        site, step, ratio = window.site, window.step.site, max(counts) / min(counts)
        assert step is not None
        places = {"backward": site.place, "step": step.place}
        run.report(
            Finding(
                rule=self.rule,
                severity=severity,
                confidence=self.confidence,
                place=site.place,
                places=places,
                subject=window.reading.optimizer,
                seen=f"the {len(counts)} micro-batches of one window each average over their own targets, "
                f"{min(counts):.0f} to {max(counts):.0f}: token weights differ by {ratio:.1f} "
                f"({seen.uneven} of {seen.windows} windows looked at differ by more than {_LIKE})",
                why="the mean of means is not the mean over the window: targets of micro-batches with few of them "
                "weigh more",
                remedy='use reduction="sum" and divide by the number of targets of the whole window',
                evidence={
                    "optimizer": window.reading.optimizer,
                    "targets": list(counts),
                    "ratio": ratio,
                    "windows": seen.windows,
                    "uneven_windows": seen.uneven,
                    "backward_frames": [str(frame) for frame in site.chain],
                    "step_frames": [str(frame) for frame in step.chain],
                    "framework": window.framework or None,
                },
                step=seen.number,
            )
        )


@dataclass
class _Seen:
    """The windows of one call that could be judged, and the most uneven one."""

    windows: int = 0
    uneven: int = 0
    material: int = 0
    counts: tuple[float, ...] = ()
    worst: Window | None = None
    number: int = 0
    reported: bool = False

    def add(self, counts: tuple[float, ...], window: Window, number: int) -> None:
        ratio = max(counts) / min(counts)
        self.windows += 1
        self.uneven += ratio > _LIKE
        self.material += ratio >= _MATERIAL
        if ratio > (max(self.counts) / min(self.counts) if self.counts else _LIKE):
            self.counts, self.worst, self.number = counts, window, number


def _counts(window: Window) -> tuple[float, ...] | None:
    """How many targets each micro-batch averaged over; None where they do not all weigh the same, or it is unknown.

    The end of the data is no pattern: a last micro-batch that is the only smaller one counts as large as the others.
    """
    losses = [loss for loss in window.losses if loss is not None]
    known = [found for loss in losses if (found := _cross_entropy(loss)) is not None]
    if len(known) < len(losses):
        return None
    weights = [share for share, _ in known]
    if any(abs(weight / weights[0] - 1) > _CLOSE for weight in weights):
        return None
    counts = [term.valid or 0.0 for _, term in known]
    totals = [term.total or 0 for _, term in known]
    if totals[-1] < min(totals[:-1]) and max(counts[:-1]) <= _LIKE * min(counts[:-1]):
        counts[-1] = min(counts[:-1])
    return tuple(counts)


def _cross_entropy(loss: LossReading) -> tuple[float, LossTerm] | None:
    """The term that keeps its count of targets, and what its mean weighs; None without one, or with several."""
    found = [(share, term) for share, term in zip(loss.shares(), loss.terms, strict=True) if term.valid is not None]
    if len(found) != 1 or not found[0][0] or not found[0][1].valid:
        return None
    return found[0][0], found[0][1]
