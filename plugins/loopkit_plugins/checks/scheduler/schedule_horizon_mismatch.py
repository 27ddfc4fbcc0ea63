"""Horizon of the schedule and length of the run do not fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from loopkit import Confidence, Finding, Run, ScheduleReading, SchedulerReading, Severity, Update, hookimpl

DEAD = 1e-6
"""A rate below this share of its base trains nothing in any precision in use."""
_LEAST = 8  # a schedule is judged from this many updates on
_AT_ZERO = 20  # updates at a rate of 0 that are more than a tail


class ScheduleHorizonMismatch:
    """Horizon and run have different units or lengths: the schedule is over too early, or never gets far.

    What it looks for
        When the run ends: a horizon (`T_max`, `total_steps`, `num_training_steps`, the last milestone) that is
        exactly the number of micro-batches while the scheduler advanced once an update, or exactly the number of
        updates while it advanced once an epoch; a warm-up that the whole run did not finish; a schedule that ended
        long before the run, with a rate of 0 since or one that climbs again; rates that fell below 1e-6 of their
        base with a third of the run to come; lengths given in epochs while the scheduler advanced every update.

    Why that hurts
        The run trains at rates it was not meant to: most of the decay never happens, or the weights stand still
        for most of the run, or a cosine raises the rate again at the end.

    A loop that has it
        scheduler = CosineAnnealingLR(optimizer, T_max=epochs)
        for epoch in range(epochs):
            for x, y in loader:
                ...
                optimizer.step()
                scheduler.step()

    The repair
        Count the horizon in what one `scheduler.step()` stands for: updates, if it is called after each
        `optimizer.step()`, or epochs, if it is called after each epoch.

    Left alone
        Warm restarts, cyclic schedules, one-cycle and warm-up-stable-decay as designed, a constant tail, whole
        numbers of cosine half-waves; runs that were cut short by an exception, Ctrl-C or `--max-steps`; resumed
        runs, explicit positions and metrics; a schedule somewhat longer or shorter than the run; exponential
        decays whose rates are still sensible; a scheduler that only plots.

    What it costs
        Nothing beyond one look-up of the update's signature, and one look at each scheduler when the run ends. A
        rate that is a tensor is not read.
    """

    rule = "schedule-horizon-mismatch"
    severity = Severity.WARNING
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._windows: dict[int, int] = {}
        self._at_zero: dict[int, int] = {}

    @hookimpl
    def update_finished(self, update: Update) -> None:
        """Note each optimizer's accumulation window, and when a rate was first seen to be 0."""
        for _, step in update.steps():
            self._windows[step.number] = max(self._windows.get(step.number, 1), step.contributions)
        for _, advance in update.schedulers():
            serial = advance.life.serial
            if _share(advance.life) != 0:
                self._at_zero.pop(serial, None)
            else:
                self._at_zero.setdefault(serial, advance.life.advances)

    @hookimpl
    def run_ending(self, run: Run) -> Iterator[Finding]:
        """Judge each scheduler by what it was made for and what became of it."""
        for reading in run.schedules():
            life = reading.life
            if life.explicit or life.started != 0 or life.shape.cycles or reading.position != life.advances:
                continue
            if life.steps_then < 2 or life.steps < _LEAST or 2 * life.advances >= 3 * life.steps:
                continue  # it plots, the run is too short, or it outpaces the optimizer, which is another rule's
            pace = _pace(life, self._windows.get(life.driven, 1), self._at_zero.get(life.serial))
            verdict = _verdict(reading, pace, run.cut_short)
            if verdict is not None:
                yield self._finding(reading, pace, verdict)

    def _finding(self, reading: SchedulerReading, pace: _Pace, verdict: _Verdict) -> Finding:
        life = reading.life
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=verdict.confidence,
            place=life.site.place,
            places={"scheduler": life.site.place, **({"scheduler made": life.made.place} if life.made else {})},
            subject=reading.scheduler,
            seen=f"{reading.scheduler} of {reading.optimizer} {verdict.seen}",
            why=verdict.why,
            remedy=verdict.remedy,
            evidence={
                "scheduler": reading.scheduler,
                "optimizer": reading.optimizer,
                "horizon": life.shape.horizon,
                "warmup": life.shape.warmup,
                "advances": life.advances,
                "updates": life.steps,
                "micro_batches": pace.micro,
                "epochs": pace.epochs,
                "rates": list(life.rates),
                "scheduler_frames": [str(place) for place in life.site.chain],
                "framework": str(life.site.framework) if life.site.framework else None,
            },
        )


@dataclass(frozen=True)
class _Pace:
    """What a run consisted of while a scheduler lived.

    Args:
        micro: micro-batches, where each update took the same number of two or more; else 0.
        epochs: of the training data, where loader and backwards agree on how many there were; else 0.
        length: batches of such an epoch.
        at_zero: advances after which a rate of 0 was first seen, and never another since.
    """

    micro: int
    epochs: int
    length: int
    at_zero: int | None


@dataclass(frozen=True)
class _Verdict:
    """What is wrong with a schedule, how it is known, and the repair."""

    seen: str
    why: str
    remedy: str
    confidence: Confidence = Confidence.PROOF


def _pace(life: ScheduleReading, window: int, at_zero: int | None) -> _Pace:
    """Count micro-batches and epochs, as far as they agree with each other."""
    epochs, length = 0, 0
    for count, batches in sorted(life.epochs, key=lambda each: -each[0] * each[1]):
        # One loss or more a batch: whole epochs alone come out even.
        if life.backwards in {count * batches * losses for losses in (1, 2, 3)}:
            epochs, length = count, batches
            break
    each = life.backwards / life.steps
    regular = window >= 2 and 0.95 * window <= each <= 1.2 * window + 1
    several_losses = epochs and epochs * length < life.backwards
    return _Pace(life.backwards if regular and not several_losses else 0, epochs, length, at_zero)


def _verdict(reading: SchedulerReading, pace: _Pace, cut_short: bool) -> _Verdict | None:
    """The first of what can be wrong."""
    life = reading.life
    found = _other_unit(life, pace)
    if found is None and not cut_short:
        found = _inside_warmup(life, pace)
    return found or _over(life, pace) or _faded(life) or _in_epochs(life, pace)


def _other_unit(life: ScheduleReading, pace: _Pace) -> _Verdict | None:
    """The horizon is what was counted in another unit than that of the advances."""
    advances, steps = life.advances, life.steps
    if life.shape.levels:
        return None
    if pace.micro >= 1.9 * advances and 0.9 * steps <= advances and _knows(life, pace.micro):
        unit, count, every = "micro-batches", pace.micro, "an update"
    elif steps >= 2 * advances and _knows(life, steps):
        unit, count, every = (
            "updates",
            steps,
            "an epoch" if pace.epochs == advances else f"{steps / advances:g} updates",
        )
    else:
        return None
    return _Verdict(
        f"has a horizon of {count}, which is the number of {unit} of this run, and advanced once {every}: "
        f"{advances} times, {advances / count:.1%} of its schedule",
        "most of the schedule never happened: the rate hardly decayed, or never left its warm-up",
        f"count its horizon in advances ({advances})"
        + (
            ", or call scheduler.step() after each optimizer.step()"
            if unit == "updates"
            else ": divide by the window"
        ),
    )


def _knows(life: ScheduleReading, count: int) -> bool:
    """Whether a schedule ends at this count: by its horizon, or its own function's number where the rate stayed."""
    off = max(1, count // 100)
    if life.shape.horizon is not None:
        return abs(life.shape.horizon - count) <= off
    share = _share(life)
    numbers = life.shape.numbers
    # A function that knows the ratio of both units too may well convert one into the other.
    converts = any(number > 1 and abs(number * life.advances - count) <= off for number in numbers)
    return share is not None and share >= 0.5 and not converts and any(abs(n - count) <= off for n in numbers)


def _inside_warmup(life: ScheduleReading, pace: _Pace) -> _Verdict | None:
    """The run ended before the rate had risen to its full height."""
    warmup, horizon, advances = life.shape.warmup, life.shape.horizon, life.advances
    if warmup is None or warmup < 1.1 * advances or advances < _LEAST or life.steps_then < life.steps - 1:
        return None
    # A schedule much longer than the run is a trial of a longer one; epochs that were broken off are one too.
    if (horizon is not None and horizon > 1.1 * advances) or (horizon is None and pace.epochs < 2):
        return None
    return _Verdict(
        f"warms up for {warmup} advances, and the whole run had {advances}",
        "the rate never reached its full height, and nothing after the warm-up ever happened",
        "make the warm-up a part of the run, such as a tenth of its updates",
    )


def _over(life: ScheduleReading, pace: _Pace) -> _Verdict | None:
    """The schedule was over before the run was: with a rate of 0 since, or one that climbs again."""
    shape, advances = life.shape, life.advances
    share = _share(life)
    if share is not None and share < 1e-9 and not shape.decays and not shape.climbs:
        end = shape.horizon if shape.horizon is not None and not shape.levels else pace.at_zero
        still = 0 if end is None else round(life.steps * (advances - end) / advances)
        if still >= _AT_ZERO and 10 * still >= life.steps:
            return _Verdict(
                f"reached a rate of 0 at advance {end} of {advances}; {still} of {life.steps} updates did nothing",
                "an update at a rate of 0 leaves the weights as they are: the run was over long before its end",
                "give the schedule the number of times it advances in the whole run",
            )
    if not shape.climbs or shape.horizon is None or advances < 1.25 * shape.horizon + 2:
        return None
    unit = _unit(shape.horizon, life, pace)
    if unit is None and advances > 1.9 * shape.horizon:
        return None  # several half-waves may be meant
    now = f"; the rate is {life.rates[0]:.3g} now" if life.rates else ""
    return _Verdict(
        f"had reached the end of its schedule at advance {shape.horizon}{f' ({unit})' if unit else ''} and went on "
        f"to {advances}, where a cosine climbs again{now}",
        "the rate rises at the end of the run, where it should be lowest, or swings up and down all along",
        f"count its horizon in advances ({advances})" + (", or advance it once an epoch" if unit else ""),
        Confidence.PROOF if unit else Confidence.FACT,
    )


def _unit(horizon: int, life: ScheduleReading, pace: _Pace) -> str | None:
    """What else of this run has this length, while the scheduler advanced with every update."""
    if pace.epochs < 2 or life.advances < 0.9 * life.steps or life.advances < 3 * pace.epochs:
        return None
    if pace.epochs <= 2 * horizon <= 2 * pace.epochs:
        return f"the run had {pace.epochs} epochs"
    if abs(horizon - life.steps / pace.epochs) <= 1:
        return "one epoch of updates"
    return None


def _faded(life: ScheduleReading) -> _Verdict | None:
    """A factor was applied until nothing was left of the rate, with a third of the run to come."""
    share = _share(life)
    if not life.shape.decays or share is None or share > DEAD**1.5 or life.advances < 3 * _LEAST:
        return None
    every = f" every {life.shape.every} advances" if life.shape.every else ""
    return _Verdict(
        f"multiplied the rate{every} until {share:.1e} of its base was left after {life.advances} advances in "
        f"{life.steps} updates",
        f"below {DEAD:g} of the base rate nothing is learned any more: at least a third of the run was lost",
        "advance it once an epoch, or give its decay in updates",
        Confidence.HEURISTIC,
    )


def _in_epochs(life: ScheduleReading, pace: _Pace) -> _Verdict | None:
    """All decays of a schedule that fits the number of epochs fell into the first of them."""
    shape, share = life.shape, _share(life)
    if not shape.decays or share is None or pace.epochs < 3 or life.advances < max(4 * pace.epochs, 0.9 * life.steps):
        return None
    an_epoch = life.advances / pace.epochs
    if shape.horizon is not None:
        fits = 2 <= shape.horizon <= min(pace.epochs, an_epoch) and share <= 0.2
        what = f"its last milestone at advance {shape.horizon}"
    else:
        fits = shape.every is not None and 2 * shape.every <= min(pace.epochs, an_epoch) and share <= 1e-3
        what = f"a decay every {shape.every} advances"
    if not fits:
        return None
    return _Verdict(
        f"has {what} and advanced with every update, {an_epoch:g} times in each of {pace.epochs} epochs; {share:.1e} "
        "of the base rate was left",
        "a schedule that would fit the number of epochs was over, or had decayed several times, within the first one",
        "advance it once an epoch, or count its steps in updates",
        Confidence.HEURISTIC,
    )


def _share(life: ScheduleReading) -> float | None:
    """What is left of the base rate, in the group that has most; None where rates are not known."""
    pairs = [(rate, base) for rate, base in zip(life.rates, life.base_rates, strict=False) if base > 0]
    return max((rate / base for rate, base in pairs), default=None)
