"""Horizon of the schedule and length of the run do not fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from loopkit import Confidence, Epochs, Finding, Run, ScheduleReading, SchedulerReading, Severity, Update, hookimpl

DEAD = 1e-6
"""A rate below this share of its base trains nothing in any precision in use."""
STARVED = 2e-5
"""The same for a plateau scheduler, which by default makes no change smaller than 1e-8."""
_LEAST = 8  # a schedule is judged from this many updates on
_STILL = 20  # updates at a rate of next to nothing that are more than a tail


class ScheduleHorizonMismatch:
    """Horizon and run have different units or lengths: the schedule is over too early, or never gets far.

    What it looks for
        When the run ends: a horizon (`T_max`, `total_steps`, `num_training_steps`, the last milestone) that is
        exactly the number of micro-batches or samples while the scheduler advanced once an update, or exactly the
        number of updates while it advanced once an epoch; a warm-up that the whole run did not finish; a schedule
        that ended long before the run, with a rate of 0 since or one that climbs again; rates that fell below 1e-6
        of their base with a third of the run to come; lengths given in epochs, or a patience, while the scheduler
        advanced every update.

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
        self._dead: dict[int, int] = {}

    @hookimpl
    def update_finished(self, update: Update) -> None:
        """Note each optimizer's accumulation window, and since when a rate has been next to nothing."""
        for _, step in update.steps():
            self._windows[step.number] = max(self._windows.get(step.number, 1), step.contributions)
        for _, advance in update.schedulers():
            life = advance.life
            share = life.share()
            if share is None or share > (STARVED if advance.scheduler == "ReduceLROnPlateau" else DEAD):
                self._dead.pop(life.serial, None)
            else:
                self._dead.setdefault(life.serial, life.advances)

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Judge each scheduler by what it was made for and what became of it."""
        for reading in run.schedules():
            life = reading.life
            if life.started != 0 or life.shape.cycles or reading.position not in (life.advances, None):
                continue
            if life.steps_then < 2 or life.steps < _LEAST or 2 * life.advances >= 3 * life.steps:
                continue  # it plots, the run is too short, or it outpaces the optimizer, which is another rule's
            pace = _pace(life, self._windows.get(life.driven, 1), self._dead.get(life.serial))
            if reading.scheduler == "ReduceLROnPlateau":
                verdict = _starved(life, pace)
            else:
                verdict = None if life.explicit else _verdict(life, pace, run.cut_short)
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
            seen=f"the {reading.scheduler} scheduler of {reading.optimizer} {verdict.seen}",
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
                "epochs": pace.epochs.times,
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
        epochs: of the training data; all 0 where these are not known.
        dead: advances after which the rate was first seen to be next to nothing, and never more since.
        each: whether it advanced with each update.
    """

    micro: int
    epochs: Epochs
    dead: int | None
    each: bool


@dataclass(frozen=True)
class _Verdict:
    """What is wrong with a schedule, how it is known, and the repair."""

    seen: str
    why: str
    remedy: str
    confidence: Confidence = Confidence.PROOF


def _pace(life: ScheduleReading, window: int, dead: int | None) -> _Pace:
    epochs = life.trained()
    regular = window >= 2 and 0.95 * window <= life.backwards / life.steps <= 1.2 * window + 1
    several_losses = 0 < epochs.times * epochs.length < life.backwards
    each = life.advances >= 0.9 * life.steps
    return _Pace(life.backwards if regular and not several_losses else 0, epochs, dead, each)


def _verdict(life: ScheduleReading, pace: _Pace, cut_short: bool) -> _Verdict | None:
    """The first of what can be wrong."""
    found = _other_unit(life, pace)
    if found is None and not cut_short:
        found = _inside_warmup(life, pace)
    return found or _still(life, pace) or _climbs(life, pace) or _faded(life, pace) or _in_epochs(life, pace)


def _other_unit(life: ScheduleReading, pace: _Pace) -> _Verdict | None:
    """The horizon is what was counted in another unit than that of the advances."""
    advances, steps = life.advances, life.steps
    samples = pace.epochs.times * pace.epochs.samples
    often = "an update" if pace.each else f"every {steps / advances:.3g} updates"
    remedy = f"count its horizon in advances, of which there were {advances}"
    if pace.each and pace.micro >= 1.9 * advances and _ends_at(life, pace.micro):
        unit, count = "micro-batches", pace.micro
        remedy += ": divide by the accumulation window"
    elif steps >= 2 * advances and _ends_at(life, steps):
        unit, count = "updates", steps
        remedy += ", or call scheduler.step() after each optimizer.step()"
    elif pace.each and samples >= 1.9 * max(advances, pace.micro) and _ends_at(life, samples):
        unit, count = "samples", samples
        remedy += ": len(loader) counts batches, len(dataset) samples"
    else:
        return None
    return _Verdict(
        f"ends at advance {count}, which is the number of {unit} of this run, and advanced once {often}: "
        f"{advances} times, {advances / count:.1%} of its schedule",
        "most of the schedule never happened: the learning rate hardly decayed, or never left its warm-up",
        remedy,
    )


def _ends_at(life: ScheduleReading, count: int) -> bool:
    """Whether a schedule ends at this count: by its horizon, or its own function's number where the rate stayed."""
    off = max(1, count // 100)
    if life.shape.horizon is not None:
        return not life.shape.levels and abs(life.shape.horizon - count) <= off
    share, numbers = life.share(), life.shape.numbers
    # A function that knows the ratio of both units too may well convert one into the other.
    converts = any(number > 1 and abs(number * life.advances - count) <= off for number in numbers)
    return share is not None and share >= 0.5 and not converts and any(abs(n - count) <= off for n in numbers)


_TRIAL = 100  # advances; a shorter run with a longer warm-up is a trial of a longer run


def _inside_warmup(life: ScheduleReading, pace: _Pace) -> _Verdict | None:
    """The run ended before the rate had risen to its full height."""
    warmup, horizon, advances = life.shape.warmup, life.shape.horizon, life.advances
    if warmup is None or warmup < 1.1 * advances or life.steps_then < life.steps - 1:
        return None
    # A schedule much longer than the run is a trial of a longer one; epochs that were broken off are one too.
    if (horizon is not None and horizon > 1.1 * advances) or (horizon is None and pace.epochs.times < 2):
        return None
    # Once an epoch, a long warm-up is one that is counted in updates.
    in_updates = 3 * advances <= warmup <= life.steps <= 2 * warmup * pace.epochs.times
    if not (in_updates or (pace.each and advances >= _TRIAL)):
        return None
    return _Verdict(
        f"warms the learning rate up for {warmup} advances, and the whole run had {advances}"
        + ("" if pace.each else f", in {life.steps} updates"),
        "the rate never reached its full height, and nothing after the warm-up ever happened",
        "make the warm-up a part of the run, such as a tenth of its advances",
    )


def _still(life: ScheduleReading, pace: _Pace) -> _Verdict | None:
    """The schedule was over before the run was, at a rate of 0."""
    shape, share = life.shape, life.share()
    if share is None or share > 1e-9 or shape.decays or shape.climbs or pace.dead == 1:
        return None  # a rate that was 0 from the beginning is another rule's
    end = shape.horizon if shape.horizon is not None and not shape.levels else pace.dead
    still = 0 if end is None else round(life.steps * (life.advances - end) / life.advances)
    if still < _STILL or 10 * still < life.steps:
        return None
    return _Verdict(
        f"had the learning rate at 0 from advance {end} of {life.advances} on: {still} of {life.steps} updates idle",
        "an update at a rate of 0 leaves the weights as they are: training was over long before the run was",
        "give the schedule the number of times it advances in the whole run",
    )


def _climbs(life: ScheduleReading, pace: _Pace) -> _Verdict | None:
    """The schedule was over before the run was, and the rate has risen since."""
    horizon, advances = life.shape.horizon, life.advances
    if not life.shape.climbs or horizon is None or advances < 1.25 * horizon + 2:
        return None
    unit = _unit(horizon, life, pace)
    if unit is None and advances > 1.9 * horizon:
        return None  # several half-waves may be meant
    now = f"; it is {life.rates[0]:.3g} now" if life.rates else ""
    return _Verdict(
        f"reached its end at advance {horizon}{f' ({unit})' if unit else ''} and went on to {advances}, "
        f"where a cosine raises the learning rate again{now}",
        "the rate rises at the end of the run, where it should be lowest, or swings up and down all along",
        f"count its horizon in advances, of which there were {advances}"
        + (", or advance once an epoch" if unit else ""),
        Confidence.PROOF if unit else Confidence.FACT,
    )


def _unit(horizon: int, life: ScheduleReading, pace: _Pace) -> str | None:
    """What else of this run has this length, while the scheduler advanced with every update."""
    epochs = pace.epochs.times
    if epochs < 2 or not pace.each or life.advances < 3 * epochs:
        return None
    if epochs <= 2 * horizon <= 2 * epochs:
        return f"the run had {epochs} epochs"
    return "one epoch of updates" if abs(horizon - life.steps / epochs) <= 1 else None


def _faded(life: ScheduleReading, pace: _Pace) -> _Verdict | None:
    """A factor was applied until nothing was left of the rate, with a third of the run to come."""
    share, advances = life.share(), life.advances
    if not life.shape.decays or share is None or advances < 4 * _LEAST:
        return None
    # Each update, and by more than 3 % each time, nobody lets a rate decay on purpose.
    hasty = pace.each and pace.epochs.times >= 2 and share <= 1e-5 and share <= 0.97**advances
    if share > DEAD**1.5 and not hasty:
        return None
    every = f" every {life.shape.every} advances" if life.shape.every else ""
    return _Verdict(
        f"decayed the learning rate{every} to {share:.1e} of its base: {advances} advances in {life.steps} updates",
        "with so small a rate nothing is learned any more: at least a third of the run was lost",
        "advance it once an epoch, or give its decay in updates",
        Confidence.HEURISTIC,
    )


def _in_epochs(life: ScheduleReading, pace: _Pace) -> _Verdict | None:
    """All decays of a schedule that fits the number of epochs fell into the first of them."""
    shape, share, epochs = life.shape, life.share(), pace.epochs.times
    if not shape.decays or share is None or epochs < 3 or life.advances < 4 * epochs or not pace.each:
        return None
    an_epoch = life.advances / epochs
    if shape.horizon is not None:
        fits = 2 <= shape.horizon <= min(epochs, an_epoch) and share <= 0.2
        what = f"its last milestone at advance {shape.horizon}"
    else:
        fits = shape.every is not None and 2 * shape.every <= min(epochs, an_epoch) and share <= 1e-3
        what = f"a decay every {shape.every} advances"
    if not fits:
        return None
    return _Verdict(
        f"has {what} and advanced with every update, {an_epoch:g} times in each of {epochs} epochs; {share:.1e} of "
        "the learning rate was left",
        "a schedule that would fit the number of epochs was over, or had decayed several times, within the first one",
        "advance it once an epoch, or count its steps in updates",
        Confidence.HEURISTIC,
    )


def _starved(life: ScheduleReading, pace: _Pace) -> _Verdict | None:
    """A plateau scheduler was asked after each batch, and its patience, meant for epochs, ran out again and again."""
    if not pace.each or pace.epochs.times < 2 or pace.epochs.length < 4 or pace.dead is None:
        return None
    still = life.advances - pace.dead
    if still < _STILL or 2 * still < life.advances:
        return None
    return _Verdict(
        f"had brought the learning rate below {STARVED:g} of its base by advance {pace.dead} of {life.advances}: "
        "it was given a metric after every update",
        "the loss of single batches goes up and down, so its patience runs out long before training is through",
        "give it a validation metric, once an epoch",
        Confidence.HEURISTIC,
    )
