"""A pass over the data has another length than the loader says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch.utils.data import DataLoader, IterableDataset

from loopkit import Confidence, Feed, Finding, Run, ScheduleReading, Severity, Site, hookimpl

_MOST = 64
_EPOCHS = 1000


class RunLengthMismatch:
    """A training loader ends earlier, or later, than its length says, and so do its epochs and the schedule.

    What it looks for
        Whole passes over a training DataLoader whose batches are fewer, or more, than its dataset or sampler
        declares with `__len__`, by a tenth and more each time: a fact, and info. It is a warning where a schedule was
        made for that length: its horizon is a whole number of the declared passes, and the run ends before, or goes
        on after it.

    Why that hurts
        What is computed from `len(loader)` is wrong: the number of steps, warm-up and decay, the mean over an epoch.
        Where there are fewer batches than samples to make them of, data is lost.

    A loop that has it
        class Stream(IterableDataset):
            def __len__(self):
                return 10_000               # of all files; those that cannot be read are left out
        steps = epochs * len(DataLoader(Stream(), batch_size=32))
        scheduler = OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)

    The repair
        Declare what is dealt, or count the steps of one pass and make the schedule for those.

    Left alone
        Passes that are broken off; loaders that declare no length; one batch more or less for each worker; lengths
        that are right in one pass; evaluation. How long a run was meant to be stands in the script's own variables,
        and is not known.

    What it costs
        A look at the loader when a pass over it ends.
    """

    rule = "run-length-mismatch"
    severity = Severity.WARNING
    confidence = Confidence.FACT
    thresholds: ClassVar[Mapping[str, float]] = {"share": 0.1}

    def __init__(self) -> None:
        self._known: list[_Length] = []

    @hookimpl
    def loader_exhausted(self, run: Run, loader: Any, feed: Feed) -> None:
        """Compare, where the pass trained."""
        if not feed.trained or feed.ends != 1 or not isinstance(loader, DataLoader):
            return
        known = next((each for each in self._known if each.loader() is loader), None)
        if known is None and len(self._known) < _MOST:
            declared = _declared(loader)
            known = _Length(feed.loader, declared or 0, max(1, loader.num_workers), feed.site)
            self._known.append(known)
        if known is not None:
            known.dealt.append(feed.handed_out())
            del known.dealt[_EPOCHS:]

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Judge loaders that were off each time."""
        schedules = [each.life for each in run.schedules()]
        for each in self._known:
            if not each.is_off(self.thresholds["share"]):
                continue
            made = [life.shape.horizon for life in schedules if each.misled(life)]
            horizon = made[0] if made else None
            yield self._finding(each, horizon)

    def _finding(self, found: _Length, horizon: int | None) -> Finding:
        dealt = found.dealt[-1]
        passes = f" in each of {len(found.dealt)} passes" if len(found.dealt) > 1 else ""
        return Finding(
            rule=self.rule,
            severity=self.severity if horizon is not None else Severity.INFO,
            confidence=self.confidence,
            place=found.site.place,
            seen=f"the DataLoader says that it has {found.declared:,} batches, and dealt {dealt:,}{passes}"
            + (f"; a schedule was made for {horizon:,}" if horizon is not None else ""),
            why="steps, warm-up and decay that are computed from len(loader) are those of another run",
            remedy="let __len__ of the dataset or sampler say what is dealt"
            + (", or drop no samples" if dealt < found.declared else ", or share the samples between workers"),
            evidence={"declared": found.declared, "dealt": found.dealt[:16], "horizon": horizon},
        )


@dataclass
class _Length:
    """What a loader declared, and the batches of each of its passes."""

    loader: Callable[[], Any]
    declared: int
    slack: int
    site: Site
    dealt: list[int] = field(default_factory=list)

    def is_off(self, share: float) -> bool:
        """Whether each pass was, and had batches."""
        allowed = max(self.slack, share * self.declared)
        return self.declared > 0 and all(each and abs(each - self.declared) > allowed for each in self.dealt)

    def misled(self, life: ScheduleReading) -> bool:
        """Whether a schedule was made for whole passes of the declared length, and the run has another."""
        horizon = life.shape.horizon
        return (
            horizon is not None
            and horizon >= self.declared
            and horizon % self.declared == 0
            and abs(horizon - life.advances) > self.slack
        )


def _declared(loader: DataLoader[Any]) -> int | None:
    """What `len` of the loader would say, without asking it: it would take down that it was asked, and warn later."""
    with suppress(Exception):  # datasets and samplers are the user's code, and many have no length
        if isinstance(loader.dataset, IterableDataset):
            samples = len(loader.dataset)  # type: ignore[arg-type]
            if loader.batch_size is None:
                return samples
            return samples // loader.batch_size if loader.drop_last else math.ceil(samples / loader.batch_size)
        return len(loader.batch_sampler if loader.batch_sampler is not None else loader.sampler)  # type: ignore[arg-type]
    return None
