"""Which scheduler of the run this is, which optimizer it drives, and how far it has come."""

from __future__ import annotations

import weakref
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from loopkit.holdings import Owner
from loopkit.horizon import shape_of
from loopkit.ledger import Ledger
from loopkit.schedule import Epochs, ScheduleReading, Settings, Shape, settings_of
from loopkit.signature import bits_of
from loopkit.update import SchedulerReading

if TYPE_CHECKING:
    from loopkit.callsite import Site

_ENDED = 32  # schedules of schedulers that are gone, kept for the end of the run
_LOADERS = 64
_METRICS = 64  # remembered of a plateau scheduler
_Loader = tuple[int, int, int]  # its number, batches, samples
RawAdvance = tuple["Schedule", "Site", int, Any, bool, Any, int]
"""An advance, before anybody asked to know: of which schedule, where, offers before it, position, whether it was
explicit, the rates, and how many backwards had run."""


class Schedule:
    """One scheduler's life, from its construction or, where that was not heard, its first advance."""

    __slots__ = (
        "advances",
        "alive",
        "backwards",
        "base_rates",
        "bits",
        "epochs",
        "epochs_before",
        "explicit",
        "first_rates",
        "held",
        "last",
        "made",
        "metrics",
        "name",
        "number",
        "offers",
        "owner",
        "serial",
        "settings",
        "shape",
        "started",
    )

    def __init__(
        self, scheduler: Any, number: int, serial: int, owner: Owner | None, epochs: Counter[_Loader]
    ) -> None:
        self.alive: Callable[[], object] = weakref.ref(scheduler)
        self.name = type(scheduler).__name__
        self.number = number
        self.bits = bits_of(number)
        self.serial = serial
        self.owner = owner
        self.made: Site | None = None
        self.offers = owner.offers if owner is not None else 0
        self.backwards = 0
        self.epochs = epochs  # of the whole run
        self.epochs_before = epochs.copy()
        self.started: float | None = None
        self.shape = Shape()
        self.settings: Settings = ()
        self.base_rates: tuple[float, ...] = ()
        self.first_rates: tuple[float, ...] = ()
        self.metrics: list[float] = []
        self.held = False  # by another scheduler, which advances it
        self.advances = 0
        self.explicit = False
        self.last: RawAdvance | None = None

    def epochs_since(self) -> tuple[Epochs, ...]:
        """The epochs of each loader since the scheduler was made."""
        since = self.epochs - self.epochs_before
        return tuple(Epochs(count, length, samples) for (_, length, samples), count in since.items())

    def steps(self) -> int:
        """What its optimizer has executed since, or a GradScaler has skipped."""
        return self.owner.offers - self.offers if self.owner is not None else 0


class Schedulers:
    """Numbers schedulers as they are met; of those that are gone only the latest are remembered."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._known: dict[int, Schedule] = {}
        self._ended: deque[Schedule] = deque(maxlen=_ENDED)
        self._unused: deque[Schedule] = deque(maxlen=_ENDED)
        self._met = 0
        self._epochs: Counter[_Loader] = Counter()

    def known(self, scheduler: Any) -> Schedule:
        """What is known of a scheduler."""
        found = self._known.get(id(scheduler))
        if found is not None and found.alive() is scheduler:
            return found
        for key in [key for key, schedule in self._known.items() if schedule.alive() is None]:
            gone = self._known.pop(key)
            if gone.advances:
                self._ended.append(gone)
            elif gone.steps():
                self._unused.append(gone)
        taken = {schedule.number for schedule in self._known.values()}
        number = next(n for n in range(len(taken) + 1) if n not in taken)
        optimizer = driven_by(scheduler)
        owner = self._ledger.owner(optimizer) if optimizer is not None else None
        made = self._known[id(scheduler)] = Schedule(scheduler, number, self._met, owner, self._epochs)
        self._met += 1
        return made

    def made(self, scheduler: Any, site: Site, backwards: int) -> None:
        """A scheduler's constructor ran."""
        schedule = self.known(scheduler)
        schedule.made, schedule.backwards = site, backwards
        schedule.first_rates = _plain(getattr(scheduler, "_last_lr", None))
        self._find_held(scheduler)

    def followed(self, scheduler: Any, metric: Any) -> None:
        """A plateau scheduler was given a metric, and has read it; one on a device is not read again."""
        metrics = self.known(scheduler).metrics
        if len(metrics) < _METRICS and not getattr(metric, "is_cuda", False):
            with suppress(TypeError, ValueError, RuntimeError):
                metrics.append(float(metric))

    def advanced(self, scheduler: Any, site: Site, explicit: bool, backwards: int) -> RawAdvance:
        """A scheduler advanced: the tuple to be told later, if anybody asks."""
        schedule = self._known.get(id(scheduler))
        if schedule is None or schedule.alive() is not scheduler:  # as `known` asks, without a call of it each time
            schedule = self.known(scheduler)
        owner = schedule.owner
        offers = owner.offers if owner is not None else 0
        position = getattr(scheduler, "last_epoch", None)
        if not schedule.advances:
            self._look_at(schedule, scheduler, position, backwards)
        schedule.advances += 1
        if explicit:
            schedule.explicit = True
        # The rates are a list that torch makes anew at each advance: holding it reads nothing.
        rates = getattr(scheduler, "_last_lr", None)
        raw = schedule.last = (schedule, site, offers, position, explicit, rates, backwards)
        return raw

    def epoch_began(self, number: int, length: int | None, loader: Any) -> None:
        """An iterator over a loader of that many batches was made."""
        if not length:
            return
        samples = 0
        with suppress(Exception):  # datasets are the user's code, and many have no length
            samples = len(loader.dataset)
        key = (number, length, samples)
        if len(self._epochs) < _LOADERS or key in self._epochs:
            self._epochs[key] += 1

    def lives(self, backwards: int) -> list[SchedulerReading]:
        """The last advance of each scheduler, in the order they were met.

        Args:
            backwards: of the whole run until now.
        """
        schedules = sorted([*self._ended, *self._known.values()], key=lambda schedule: schedule.serial)
        told = []
        for each in schedules:
            if each.last is None:
                continue
            # A fold or phase has ended where another scheduler was made after the last advance.
            ended = each.last[6]
            over = any(other.serial > each.serial and other.backwards >= ended for other in schedules)
            told.append(advance_told(each.last, None if over else backwards))
        return told

    def unused(self, backwards: int) -> list[SchedulerReading]:
        """Schedulers that never advanced, and that no other scheduler holds, while their optimizer stepped."""
        schedules = [each for each in self._known.values() if not each.advances and each.steps()]
        told = []
        for each in sorted([*self._unused, *schedules], key=lambda schedule: schedule.serial):
            if each.made is not None and not each.held:
                offers = each.owner.offers if each.owner is not None else 0
                told.append(advance_told((each, each.made, offers, None, False, None, backwards), backwards))
        return told

    def _find_held(self, scheduler: Any) -> None:
        """Of schedulers within a scheduler, only the outermost is expected to be advanced by the program."""
        for value in list(getattr(scheduler, "__dict__", {}).values()):
            for each in value if isinstance(value, list | tuple) else (value,):
                if each is not scheduler and isinstance(each, LRScheduler):
                    self.known(each).held = True

    def _look_at(self, schedule: Schedule, scheduler: Any, position: Any, backwards: int) -> None:
        """Once for each scheduler, at its first advance: its constructor has returned then."""
        if position is None:  # a ChainedScheduler leaves counting to its members
            position = next(
                (getattr(each, "last_epoch", None) for each in getattr(scheduler, "_schedulers", None) or ()), None
            )
        if isinstance(position, (int, float)):
            schedule.started = float(position) - 1
        if schedule.made is None:
            schedule.backwards = backwards
        schedule.shape = shape_of(scheduler)
        schedule.settings = settings_of(getattr(scheduler, "__dict__", {}))
        self._find_held(scheduler)
        groups = getattr(driven_by(scheduler), "param_groups", ())
        schedule.base_rates = _plain(getattr(scheduler, "base_lrs", None)) or _plain(
            [group.get("initial_lr", group.get("lr")) for group in groups]
        )


def advance_told(raw: RawAdvance, backwards: int | None = None) -> SchedulerReading:
    """An advance in the words of checks.

    Args:
        backwards: of the whole run, for a scheduler whose life lasted until its end; None: until this advance.
    """
    schedule, site, offers, position, explicit, rates, then = raw
    owner = schedule.owner
    until = owner.offers if owner is not None and backwards is not None else offers
    life = ScheduleReading(
        serial=schedule.serial,
        driven=owner.number if owner is not None else -1,
        made=schedule.made,
        site=site,
        shape=schedule.shape,
        base_rates=schedule.base_rates,
        rates=_plain(rates),
        started=schedule.started,
        advances=schedule.advances,
        explicit=schedule.explicit,
        steps=until - schedule.offers,
        steps_then=offers - schedule.offers,
        backwards=(then if backwards is None else backwards) - schedule.backwards,
        epochs=schedule.epochs_since() if backwards is not None else (),
        first_rates=schedule.first_rates,
        metrics=tuple(schedule.metrics),
        settings=schedule.settings,
    )
    place = float(position) if isinstance(position, (int, float)) else None
    label = owner.label if owner is not None else ""
    odd = isinstance(position, torch.Tensor)
    return SchedulerReading(schedule.name, schedule.number, label, offers, place, explicit, life, odd)


def _plain(rates: Any) -> tuple[float, ...]:
    """Rates that are plain numbers; one in a tensor is not read, and then none is told."""
    if not isinstance(rates, list | tuple) or not all(isinstance(rate, int | float) for rate in rates):
        return ()
    return tuple(map(float, rates))


def driven_by(scheduler: Any) -> torch.optim.Optimizer | None:
    """The optimizer a scheduler drives, out of the wrappers frameworks put around it."""
    optimizer = getattr(scheduler, "optimizer", None)
    for _ in range(4):
        inner = getattr(optimizer, "optimizer", None)
        if not isinstance(inner, torch.optim.Optimizer):
            break
        optimizer = inner
    return optimizer if isinstance(optimizer, torch.optim.Optimizer) else None


def is_being_built(scheduler: Any) -> bool:
    """Whether this is the step of its own constructor."""
    initial = getattr(scheduler, "_is_initial", None)
    if initial is not None:
        return bool(initial)
    return getattr(scheduler, "_step_count", 2) < 2  # older torch leaves no other mark
