"""Accumulation windows: the backwards whose gradients one step used, read from the record of an update."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loopkit.lossreading import LossReading
from loopkit.update import Event, Kind, LoaderReading, StepReading, Update

if TYPE_CHECKING:
    from loopkit.callsite import Site


@dataclass(frozen=True, slots=True)
class Window:
    """The backwards of one call that a step used, in order; one of them is no accumulation yet.

    Args:
        step: the step that used them.
        reading: what the ledger said of it.
        site: the call they came from.
        losses: what the graph of each said; None where it was not read.
        epoch_at: how many of them stood before an epoch of training began: 0 where that came before the first.
        length: batches that epoch has, where known.
        lost: backwards of the same call that came before that epoch and were cleared unused.
        dropped: they were cleared after their epoch, by a call that did not stand before the first one: it can have
            no other purpose.
        several_loaders: more than one loader feeds the training.
        collected: the loop fetches the batches of a window first, as many as there are backwards.
    """

    step: Event
    reading: StepReading
    site: Site
    losses: tuple[LossReading | None, ...]
    epoch_at: int | None
    length: int | None
    lost: int
    dropped: bool
    several_loaders: bool
    collected: bool

    @property
    def size(self) -> int:
        """How many backwards it holds."""
        return len(self.losses)

    @property
    def of_hf_trainer(self) -> bool:
        """Whether HF Trainer, which calls Accelerate, had all its batches before its first backward."""
        batches = self.reading.batches
        return self.framework == "accelerate" and self.size > 1 and any(batches) and len(set(batches)) == 1

    @property
    def framework(self) -> str:
        """The package that calls `backward` for the user; "" where nobody does."""
        if self.site.framework is None:
            return ""
        return self.site.framework.file.replace("\\", "/").rpartition("-packages/")[2].partition("/")[0]

    @property
    def of_micro_batches(self) -> bool:
        """Whether each backward was of other data, so that these are parts of one batch.

        Several losses of one batch, several views of one input and chunks of a sequence are not. Accelerate reads a
        batch ahead and HF Trainer, through it, a whole window: theirs are told apart by the model's inputs alone.
        """
        inputs, batches = self.reading.inputs, self.reading.batches
        if self.reading.steps == 1:
            inputs = inputs[1:]  # until a model is known, what a criterion is given passes for its input
        if len(set(inputs)) < len(inputs) or -1 in inputs:
            return False
        if self.framework == "accelerate" or self.collected or self.size == 1 or not any(batches):
            return True
        # One read ahead stands beside its successor where an epoch ends.
        return len(set(batches)) >= max(2, len(batches) - 1)

    @property
    def alike(self) -> bool:
        """Whether all losses were read, have the same terms, and reach the same parameters."""
        known = [loss for loss in self.losses if loss is not None]
        if len(known) < self.size or self.reading.least < self.size:
            return False
        if any(loss.repeated or loss.retained or loss.double or loss.selective for loss in known):
            return False
        shapes = {tuple((term.kind, term.reduction) for term in loss.terms) for loss in known}
        return len(shapes) == 1

    def weights(self) -> tuple[float | None, ...]:
        """For each term, how often its mean over all micro-batches the window's gradient holds: 1 is right.

        None where that cannot be said: a pure sum, a reduction the graph does not tell.
        """
        if not self.alike:
            return ()
        columns = zip(*[loss.shares() for loss in self.losses if loss is not None], strict=True)
        return tuple(_total(column) for column in columns)


def _total(column: tuple[float | None, ...]) -> float | None:
    known = [share for share in column if share is not None]
    return sum(known) if len(known) == len(column) else None


class Windows:
    """Finds the windows of updates, and knows which loaders feed the training: an instrument, one for all checks.

    An epoch is one of training when a backward comes before any evaluation does.
    """

    def __init__(self) -> None:
        self.epochs = 0  # of training, as far as updates were seen
        self._several = False
        self._training: set[int] = set()
        self._opening: set[Site] = set()  # clears before the run's first backward
        self._collected: set[Site] = set()
        self._latest: Update | None = None
        self._found: list[Window] = []

    def of(self, update: Update) -> list[Window]:
        """The window of each step of the update that is one call's, and that nothing else explains."""
        if update is not self._latest:  # each check asks
            self._latest, self._found = update, list(self._read(update))
        return self._found

    def _read(self, update: Update) -> Iterator[Window]:
        began = self._epochs(update.events)
        if update.truncated:
            return
        if update.updates == 1:
            self._opening = _clears_before_work(update.events)
        for at, event in enumerate(update.events):
            step = event.reading
            if not isinstance(step, StepReading) or not step.fresh or event.site is None:
                continue
            if step.mixed or step.written or step.touched or step.inside_backward or step.wraps_a_step:
                continue
            backwards = [i for i in range(at) if update.events[i].kind is Kind.BACKWARD]
            window = self._window(update, event, step, backwards, began)
            if window is not None:
                yield window

    def _window(
        self, update: Update, event: Event, step: StepReading, backwards: list[int], began: dict[int, LoaderReading]
    ) -> Window | None:
        events = update.events
        used = backwards[-step.contributions :] if step.contributions else []
        if not used or len(used) < step.contributions:
            return None
        site = _one_call([events[i].site for i in used])
        if site is None:
            return None
        if step.steps == 1 and len(used) > 1 and set(step.batches) == {len(used)}:
            self._collected.add(site)  # as many batches as backwards, and all were there before the first of these
        lost, clear = _lost(events, step, site, [i for i in backwards if i < used[0]], began)
        if not lost and any(wipe.backward is site for wipe in step.wipes):
            return None  # a part of it was cleared: what is left is no window that anybody meant
        # An epoch before what an older, unused backward would be is not this window's.
        first = max((i for i in backwards if i < used[0]), default=-1)
        epoch = max((i for i in began if first < i < used[-1]), default=None)
        losses = [events[i].reading for i in used]
        return Window(
            step=event,
            reading=step,
            site=site,
            losses=tuple(loss if isinstance(loss, LossReading) else None for loss in losses),
            epoch_at=None if epoch is None else sum(i < epoch for i in used),
            length=None if epoch is None else began[epoch].length,
            lost=lost,
            dropped=clear is not None and clear not in self._opening,
            several_loaders=self._several,
            collected=site in self._collected,
        )

    def _epochs(self, events: tuple[Event, ...]) -> dict[int, LoaderReading]:
        """Where epochs of training began, as indexes into `events`."""
        began: dict[int, LoaderReading] = {}
        pending: dict[int, LoaderReading] = {}
        for i, event in enumerate(events):
            if isinstance(event.reading, LoaderReading):
                pending[i] = event.reading
            elif event.kind is Kind.EVALUATION and pending:
                last = max(pending)
                if pending[last].number not in self._training:
                    del pending[last]
            elif event.kind is Kind.BACKWARD and pending:
                numbers = {reading.number for reading in pending.values()}
                # A number is given anew once its loader is gone, so two iterators made in a row count as well.
                in_a_row = any(i + 1 in pending for i in pending)
                self._several = self._several or len(numbers) > 1 or in_a_row
                self._training |= numbers
                self.epochs += 1
                began |= pending
                pending = {}
        return began


def _one_call(sites: list[Site | None]) -> Site | None:
    """The call that backwards came from; under DDP the last of a window may stand on another line than the rest."""
    first, last = sites[0], sites[-1]
    if first is None or last is None or any(site is not first for site in sites[1:-1]):
        return None
    beside = (first.place.file, first.place.function) == (last.place.file, last.place.function)
    return first if first is last or (beside and len(sites) > 2) else None


def _clears_before_work(events: tuple[Event, ...]) -> set[Site]:
    """Where gradients were cleared before the first backward."""
    first = next((i for i, event in enumerate(events) if event.kind is Kind.BACKWARD), 0)
    return {event.site for event in events[:first] if event.kind is Kind.ZERO_GRAD and event.site is not None}


def _lost(
    events: tuple[Event, ...], step: StepReading, site: Site, before: list[int], began: dict[int, LoaderReading]
) -> tuple[int, Site | None]:
    """How many backwards at the end of an epoch were cleared unused, and by which call, if before the next began."""
    wipes = [wipe for wipe in step.wipes if wipe.backward is site and not wipe.claimed and not wipe.in_closure]
    tail = [i for i in before if events[i].site is site]
    epoch = next((i for i in sorted(began) if tail and i > tail[-1]), None)
    if not wipes or epoch is None:
        return 0, None
    cleared = wipes[-1].cleared
    at_once = any(events[i].kind is Kind.ZERO_GRAD and events[i].site is cleared for i in range(tail[-1], epoch))
    return len(tail), cleared if at_once else None
