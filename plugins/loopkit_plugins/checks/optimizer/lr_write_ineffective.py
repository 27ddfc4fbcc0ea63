"""A learning rate is set where nobody reads it, or is overwritten before it is used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from loopkit import (
    Confidence,
    Effect,
    Event,
    Finding,
    Ledger,
    Run,
    ScheduleReading,
    SchedulerReading,
    Severity,
    StepReading,
    Update,
    hookimpl,
)

_SIGHTINGS = 3
_CHANGE = 1e-6  # relative: below it two rates are one


class _Course:
    """The rates one optimizer stepped with, against those its scheduler had set."""

    def __init__(self) -> None:
        self.constant: tuple[float, ...] = ()
        self.set: tuple[float, ...] = ()  # by the scheduler, when it was seen last
        self.against: set[tuple[float, ...]] = set()
        self.sightings = 0
        self.followed = False
        self.found: Finding | None = None


class LrWriteIneffective:
    """The rate that is set is not the rate that is used.

    What it looks for
        A setting of the optimizer that is written to the object (`optimizer.lr = 0.01`), where torch's optimizers do
        not read it. And a scheduler whose rates are never used: at every step that was looked at the rate is one and
        the same, while the scheduler has set other ones before.

    Why that hurts
        The schedule, or the change, does nothing: training goes on with the rate it began with.

    A loop that has it
        for x, y in loader:
            for group in optimizer.param_groups:
                group["lr"] = 0.1
            train_step(x, y)
            scheduler.step()

    The repair
        Write to `group["lr"]` of every group in `optimizer.param_groups`, and let one owner control the rate: the
        scheduler or the loop.

    Left alone
        Loops that write every group and have no scheduler; a warm-up by hand before the scheduler takes over; scaling
        what the scheduler has set; a floor under it; schedules of which only a part is overwritten; optimizers of
        the user's own, which may read such an attribute; rates in tensors.

    What it costs
        The rates of each group are noted in those updates whose graph is walked.
    """

    rule = "lr-write-ineffective"
    severity = Severity.WARNING
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._courses: dict[int, _Course] = {}

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> Iterator[Finding]:
        """Note what each step used and what each scheduler has set."""
        stepped = [(event, step) for event, step in update.steps()]
        for event, step in stepped:
            if event.site is not None and step.stock:
                yield from self._dead_settings(run, event, step, update.number)
        if not any(step.effect is not None for _, step in stepped):
            return
        schedules = {each.life.driven: each for each in run.schedules()}
        for event, step in stepped:
            schedule = schedules.get(step.number)
            if schedule is not None and step.effect is not None and event.site is not None:
                self._compare(event, step.effect, schedule, update.number)

    @hookimpl
    def run_finished(self) -> Iterator[Finding]:
        """A later part of the run may have followed the schedule; now there is none."""
        for course in self._courses.values():
            if course.found is not None and not course.followed:
                yield course.found

    def _compare(self, event: Event, effect: Effect, schedule: SchedulerReading, number: int) -> None:
        life = schedule.life
        course = self._courses.setdefault(life.serial, _Course())
        if not effect.rates or not life.rates or schedule.explicit:
            return
        if not course.constant:
            course.constant = effect.rates
        if not _same(effect.rates, course.constant):
            course.followed = True
        elif course.set and not _same(course.set, effect.rates) and not _same(life.rates, effect.rates):
            course.sightings += 1
            course.against.add(course.set)
            if course.sightings >= _SIGHTINGS and len(course.against) > 1:
                course.found = self._overwritten(event, effect, schedule, number)
        course.set = life.rates

    def _overwritten(self, event: Event, effect: Effect, schedule: SchedulerReading, number: int) -> Finding:
        assert event.site is not None
        life: ScheduleReading = schedule.life
        places = {"step": event.site.place, "scheduler": life.site.place}
        if life.made is not None:
            places["scheduler constructed"] = life.made.place
        used, wanted = _told(effect.rates), _told(life.rates)
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=life.site.place,
            places=places,
            subject=schedule.scheduler,
            seen=f"{schedule.optimizer} stepped with a learning rate of {used} each time, though "
            f"{schedule.scheduler} had set other ones, {wanted} by now: its rate is overwritten before it is used",
            why="the scheduler has no effect: somebody else sets the learning rate after it, in each iteration",
            remedy='remove the line that writes group["lr"], or the scheduler',
            evidence={
                "scheduler": schedule.scheduler,
                "used": list(effect.rates),
                "set": list(life.rates),
                "advances": life.advances,
            },
            step=number,
        )

    def _dead_settings(self, run: Run, event: Event, step: StepReading, number: int) -> Iterator[Finding]:
        owner = next((each for each in run.instrument(Ledger).owners() if each.number == step.number), None)
        optimizer: Any = owner.optimizer() if owner is not None else None
        assert event.site is not None
        if optimizer is None or not type(optimizer).__module__.startswith("torch.optim"):
            return
        for name, value in _dead(optimizer):
            used = [group.get(name) for group in optimizer.param_groups]
            yield Finding(
                rule=self.rule,
                severity=self.severity,
                confidence=self.confidence,
                place=event.site.place,
                places={"step": event.site.place},
                subject=f"{step.optimizer}.{name}",
                seen=f"{step.optimizer}.{name} = {value:g} was set, where no optimizer reads it: this step used "
                f"{name} {', '.join(map(str, used))}",
                why="the settings that are used stand in optimizer.param_groups; an attribute of the optimizer "
                "changes nothing",
                remedy=f'write group["{name}"] = {value:g} for every group in optimizer.param_groups',
                evidence={"optimizer": step.optimizer, "setting": name, "value": value, "used": used},
                step=number,
            )


def _dead(optimizer: Any) -> list[tuple[str, float]]:
    """Settings that were written to the optimizer itself and differ from what its groups say."""
    found = []
    for name in optimizer.defaults:
        value = vars(optimizer).get(name)
        plain = isinstance(value, (int, float)) and not isinstance(value, bool)
        used = [group.get(name) for group in optimizer.param_groups]
        if plain and all(isinstance(each, (int, float)) and each != value for each in used):
            found.append((name, float(value)))
    return found


def _same(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return len(one) == len(other) and all(
        abs(a - b) <= _CHANGE * max(abs(a), abs(b)) for a, b in zip(one, other, strict=True)
    )


def _told(rates: tuple[float, ...]) -> str:
    return " and ".join(f"{rate:.3g}" for rate in dict.fromkeys(rates))
