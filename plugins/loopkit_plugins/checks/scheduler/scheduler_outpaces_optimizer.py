"""The schedule advances more often than weights are updated."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from loopkit import Confidence, Event, Finding, Habit, Kind, Run, SchedulerReading, Severity, Site, Update, hookimpl


class SchedulerOutpacesOptimizer:
    """The schedule advances more often than weights are updated, so warm-up and decay end too early.

    What it looks for
        One scheduler that advances again from the same line between two micro-batches of one accumulation window,
        or from two lines after the same step, as a habit; and whose schedule was over before the run was. Also two
        schedulers of one class that drive the same optimizer and advance together, while another optimizer that
        steps in the same run has none.

    Why that hurts
        The schedule is over after a fraction of the updates: the rest of the run has the last rate, often 0, or a
        cosine's rate that climbs again. The optimizer without a scheduler never changes its rate at all.

    A loop that has it
        scheduler = get_linear_schedule_with_warmup(optimizer, 10, epochs * len(loader) // 4)
        for i, (x, y) in enumerate(loader):
            (criterion(model(x), y) / 4).backward()
            if (i + 1) % 4 == 0:
                optimizer.step()
                optimizer.zero_grad()
            scheduler.step()

    The repair
        Call `scheduler.step()` only where `optimizer.step()` is called, once, on each optimizer's own scheduler.

    Left alone
        A horizon counted in micro-batches, which ends with the run; a schedule whose end is not known is named as
        info; a GAN's players, each stepped at its own pace; steps that a GradScaler skipped; schedulers that
        advance once an epoch, are given a position or a metric, or never end; fast-forwarding on resume and
        plotting, with no backward in between; Accelerate, which advances once for each process on purpose.

    What it costs
        Nothing beyond one look-up of the update's signature, and one look at each scheduler when the run ends.
    """

    rule = "scheduler-outpaces-optimizer"
    severity = Severity.WARNING
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._habit = Habit()
        self._paces: dict[int, _Pace] = {}
        self._stepped: dict[int, str] = {}
        self._pairs: dict[tuple[int, int], tuple[SchedulerReading, SchedulerReading]] = {}

    @hookimpl
    def update_finished(self, update: Update) -> None:
        """Note how often each scheduler advances; whether that is too often is known when the run ends."""
        for _, step in update.steps():
            self._stepped[step.number] = step.optimizer
        if update.truncated:
            return
        advances: dict[int, list[int]] = {}
        for at, event in enumerate(update.events):
            if isinstance(event.reading, SchedulerReading) and not event.reading.explicit:
                advances.setdefault(event.reading.life.serial, []).append(at)
        for serial, places in advances.items():
            pace = _pace(update, places)
            if pace is not None and self._is_habit(("pace", serial), update, pace.last):
                known = self._paces.get(serial)
                if known is None or pace.times > known.times:  # the last window of an epoch may be shorter
                    self._paces[serial] = pace
        self._note_pairs(update, [update.events[places[-1]] for places in advances.values()])

    def _note_pairs(self, update: Update, last: list[Event]) -> None:
        """Schedulers of one class that advance on the same optimizer in the same update."""
        for i, one in enumerate(last):
            for other in last[:i]:
                a, b = one.reading, other.reading
                assert isinstance(a, SchedulerReading)
                assert isinstance(b, SchedulerReading)
                alike = (a.scheduler, a.life.driven) == (b.scheduler, b.life.driven) and a.optimizer
                if not alike or a.life.shape != b.life.shape or "Lambda" in a.scheduler:
                    continue
                older, newer = sorted((a, b), key=lambda reading: reading.life.serial)
                key = (older.life.serial, newer.life.serial)
                if self._is_habit(("pair", *key), update, newer):
                    self._pairs[key] = (older, newer)

    def _is_habit(self, of_what: tuple[object, ...], update: Update, reading: SchedulerReading) -> bool:
        steps = max(1, reading.life.steps)
        return self._habit.is_one(of_what, update.signature, update.seen, steps, at_least=3)

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Judge each scheduler by where its schedule ended."""
        schedules = run.schedules()
        driven = {reading.life.driven for reading in schedules}
        for reading in schedules:
            pace = self._paces.get(reading.life.serial)
            if pace is not None and (verdict := _verdict(reading, pace, run.cut_short)):
                yield self._finding(reading, pace, *verdict)
        bare = [label for number, label in self._stepped.items() if number not in driven]
        if bare and -1 not in driven:
            for pair in self._pairs.values():
                yield self._pair_finding(pair, bare[0])

    def _finding(self, reading: SchedulerReading, pace: _Pace, severity: Severity, how: str, where: str) -> Finding:
        life = reading.life
        return Finding(
            rule=self.rule,
            severity=severity,
            confidence=Confidence.FACT if severity is Severity.INFO else self.confidence,
            place=life.site.place if pace.other is None else pace.site.place,
            places={
                "scheduler": pace.site.place,
                **({"second advance": pace.other.place} if pace.other else {}),
                **({"step": pace.step.place} if pace.step else {}),
                **({"scheduler made": life.made.place} if life.made else {}),
            },
            subject=reading.scheduler,
            seen=f"the {reading.scheduler} scheduler advanced {pace.times} times for each step of "
            f"{reading.optimizer}, {where}: {life.advances} advances, {life.steps} updates{how}",
            why="warm-up and decay end after a fraction of the updates they were meant for",
            remedy="call scheduler.step() right after optimizer.step(), inside the same if"
            if pace.other is None
            else "leave one of the two calls out",
            evidence={
                "scheduler": reading.scheduler,
                "optimizer": reading.optimizer,
                "per_step": pace.times,
                "advances": life.advances,
                "updates": life.steps,
                "horizon": life.shape.horizon,
                "scheduler_frames": [str(place) for place in pace.site.chain],
                "framework": str(pace.site.framework) if pace.site.framework else None,
            },
        )

    def _pair_finding(self, pair: tuple[SchedulerReading, SchedulerReading], bare: str) -> Finding:
        first, second = pair
        place = (second.life.made or second.life.site).place
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=place,
            places={
                "scheduler": second.life.site.place,
                "first scheduler": (first.life.made or first.life.site).place,
                "first scheduler advances": first.life.site.place,
            },
            subject=second.scheduler,
            seen=f"two {second.scheduler} schedulers drive {second.optimizer} and both advance for each of its "
            f"steps, while {bare}, which steps too, has no scheduler",
            why=f"the rate of {second.optimizer} follows both schedules at once, that of {bare} never changes",
            remedy=f"give {bare} to the second scheduler's constructor",
            evidence={
                "scheduler": second.scheduler,
                "optimizer": second.optimizer,
                "without": bare,
                "scheduler_frames": [str(each) for each in second.life.site.chain],
            },
        )


@dataclass
class _Pace:
    """How one scheduler advanced within one update: how often, and where."""

    times: int
    last: SchedulerReading
    site: Site
    other: Site | None
    step: Site | None


def _pace(update: Update, places: list[int]) -> _Pace | None:
    """How often the scheduler advanced for one step, where that was more than once."""
    events = update.events
    reading, site = events[places[-1]].reading, events[places[0]].site
    assert isinstance(reading, SchedulerReading)
    inside, twice = 1, 0
    other: Site | None = None
    for before, after in itertools.pairwise(places):
        one, two = events[before].site, events[after].site
        between = {event.kind for event in events[before + 1 : after]}
        if one is None or two is None or between & {Kind.SKIP, Kind.EPOCH}:
            return None
        if one.spot == two.spot and Kind.BACKWARD in between:
            inside += 1
        elif one.spot != two.spot and Kind.BACKWARD not in between and not one.framework and not two.framework:
            twice, other = twice + 1, two
    steps = [event.site for event, step in update.steps() if step.number == reading.life.driven]
    if site is None or len(steps) != 1 or (inside > 1) == (twice == 1) or twice > 1:
        return None
    if inside > 1:
        return _Pace(inside, reading, site, None, steps[0])
    # Before the step and after it: two updates' worth where the update's ends lie elsewhere than thought.
    stands = [at for at, event in enumerate(events) if event.kind is Kind.STEP]
    return _Pace(2, reading, site, other, steps[0]) if places[0] > stands[-1] else None


def _verdict(reading: SchedulerReading, pace: _Pace, cut_short: bool) -> tuple[Severity, str, str] | None:
    """How severe it is, what became of the schedule, and between what it advanced; None where no harm is known."""
    life, shape = reading.life, reading.life.shape
    where = (
        "once a micro-batch of the accumulation window"
        if pace.other is None
        else f"from two lines, {pace.site.place} and {pace.other.place}"
    )
    if life.explicit or shape.cycles or life.started is None or 4 * life.advances < 5 * life.steps:
        return None
    position = life.started + life.advances if reading.position is None else reading.position
    if shape.horizon is not None and not shape.levels:
        after = round(shape.horizon * life.steps / life.advances)
        how = f"; it reached its end at advance {shape.horizon}, after about {after} of them"
        if position > 1.05 * shape.horizon + 1:
            return Severity.WARNING, how, where
        # A OneCycleLR raises past its end.
        if cut_short and position >= shape.horizon - 1 and reading.scheduler == "OneCycleLR":
            return Severity.WARNING, how, where
        return None  # counted in the unit in which it advances
    near = [number for number in shape.numbers if number > 3 and abs(number - life.steps) <= 0.02 * number]
    if any(abs(number - life.advances) <= 0.02 * number + 1 for number in shape.numbers):
        return None
    if near:
        return Severity.WARNING, f"; its function knows the number {near[0]}, which is that of the updates", where
    return (Severity.WARNING if pace.other is not None else Severity.INFO), "", where
