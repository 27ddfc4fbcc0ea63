"""A scheduler that changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from loopkit import (
    Confidence,
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

_STEPS = 20  # updates without an advance, where nothing tells of epochs


class SchedulerDisconnected:
    """A scheduler exists and changes nothing: it never advances, or drives an optimizer that no longer steps.

    What it looks for
        When the run ends: a scheduler that was made and never advanced, while its optimizer went through two epochs,
        or twenty updates and a whole epoch. And a scheduler that goes on advancing while its own optimizer does not
        step, but another one does, with some of the same parameters and at another rate.

    Why that hurts
        The learning rate stays what it was: no warm-up, no decay. Nothing else shows it; the loss merely ends higher.

    A loop that has it
        optimizer = AdamW(model.parameters(), lr=1e-3)
        scheduler = CosineAnnealingLR(optimizer, T_max=epochs)
        optimizer = AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
        for epoch in range(epochs):
            train_one_epoch(model, optimizer)
            scheduler.step()

    The repair
        Call `scheduler.step()`, once an update or once an epoch, and make the scheduler after the optimizer that is
        stepped; make it anew when the optimizer is made anew.

    Left alone
        Schedulers inside `SequentialLR`, `ChainedScheduler` or another scheduler; a scheduler whose turn has not come
        while another one drives the same optimizer; rates that somebody writes by hand; runs that end within their
        first epoch; schedulers that only plot, or whose rate is copied to the optimizer that steps; optimizers with
        parameters of their own that have not begun. A plateau scheduler that was never asked is info.

    What it costs
        In updates of a new shape, a look at the rates of the optimizers that stepped. The rest when the run ends.
    """

    rule = "scheduler-disconnected"
    severity = Severity.WARNING
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._rates: dict[int, tuple[float, ...]] = {}
        self._written: set[int] = set()
        self._steps: dict[int, Event] = {}
        self._still: dict[int, tuple[int, int]] = {}
        self._replaced: dict[int, _Replaced] = {}

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> None:
        """Note which rates change, and which schedulers advance for an optimizer that does not step."""
        ledger = run.instrument(Ledger)
        for event, step in update.steps():
            self._steps[step.number] = event
            owner = ledger.numbered(step.number)
            rates = owner.rates() if owner is not None else ()
            if rates != self._rates.setdefault(step.number, rates):
                self._written.add(step.number)
        for _, advance in update.schedulers():
            self._note(ledger, update, advance)

    def _note(self, ledger: Ledger, update: Update, advance: SchedulerReading) -> None:
        """Since when its optimizer has stood still, and which other one steps with its parameters meanwhile."""
        life = advance.life
        steps, since = self._still.setdefault(life.serial, (life.steps, life.advances - 1))
        if steps != life.steps:
            self._still[life.serial] = (life.steps, life.advances)
            self._replaced.pop(life.serial, None)
            return
        if life.advances - since < 2 or advance.explicit or (own := ledger.numbered(life.driven)) is None:
            return
        ours = set(map(id, own.parameters()))
        for event, step in update.steps():
            other = ledger.numbered(step.number)
            if step.number == life.driven or other is None:
                continue
            shared = len(ours & set(map(id, other.parameters())))
            rates = other.rates()
            if shared and rates and life.rates and rates[0] != life.rates[0]:
                self._replaced[life.serial] = _Replaced(advance, life.advances - since, event, step, shared, rates[0])

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Judge what never advanced, and what advanced in vain until the end."""
        driven = {reading.life.driven for reading in run.schedules()}
        for replaced in self._replaced.values():
            if replaced.step.number not in driven:
                yield self._finding_replaced(replaced)
        for reading in run.schedules(unused=True):
            life = reading.life
            if life.driven not in driven | self._written and _has_lasted(life, run.cut_short):
                yield self._finding_unused(reading)

    def _finding_unused(self, reading: SchedulerReading) -> Finding:
        life = reading.life
        step = self._steps.get(life.driven)
        asked = reading.scheduler == "ReduceLROnPlateau"
        epochs = max((each.times for each in life.epochs), default=0)
        return Finding(
            rule=self.rule,
            severity=Severity.INFO if asked else self.severity,
            confidence=Confidence.FACT,
            place=life.site.place,
            places={"scheduler made": life.site.place, **({"step": step.site.place} if step and step.site else {})},
            subject=reading.scheduler,
            seen=f"the {reading.scheduler} scheduler of {reading.optimizer} never advanced, in {life.steps} updates"
            + (f" and {epochs} epochs" if epochs > 1 else ""),
            why="the learning rate stayed what it was when the scheduler was made: nothing of the schedule happened",
            remedy="call scheduler.step() after optimizer.step(), or once an epoch if its lengths are in epochs; or "
            "leave the scheduler out",
            evidence={
                "scheduler": reading.scheduler,
                "optimizer": reading.optimizer,
                "updates": life.steps,
                "epochs": epochs,
                "scheduler_frames": [str(place) for place in life.site.chain],
            },
        )

    def _finding_replaced(self, found: _Replaced) -> Finding:
        reading, life, step = found.advance, found.advance.life, found.step
        made = life.made or life.site
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=made.place,
            places={
                "scheduler": life.site.place,
                **({"scheduler made": life.made.place} if life.made else {}),
                **({"step": found.event.site.place} if found.event.site else {}),
            },
            subject=reading.scheduler,
            seen=f"the {reading.scheduler} scheduler drives {reading.optimizer}, which does not step; "
            f"{step.optimizer} does, with {found.shared} of the same parameters, and keeps its rate of "
            f"{found.rate:.3g} while the schedule is at {life.rates[0]:.3g}",
            why="the schedule changes the rate of an optimizer that nobody uses; the one that steps keeps its own",
            remedy=f"make the scheduler after {step.optimizer}, with it: {reading.scheduler}(optimizer, ...)",
            evidence={
                "scheduler": reading.scheduler,
                "optimizer": reading.optimizer,
                "steps_instead": step.optimizer,
                "shared_parameters": found.shared,
                "advances_in_vain": found.idle,
                "scheduler_frames": [str(place) for place in life.site.chain],
            },
        )


@dataclass
class _Replaced:
    """A scheduler that advances in vain, and the optimizer that steps instead of its own."""

    advance: SchedulerReading
    idle: int
    event: Event
    step: StepReading
    shared: int
    rate: float


def _has_lasted(life: ScheduleReading, cut_short: bool) -> bool:
    """Whether a scheduler that advances once an epoch would have advanced by now."""
    epochs = max((each.times for each in life.epochs), default=0)
    if life.steps < 4 or (cut_short and epochs < 3):
        return False
    whole = not life.epochs or any(life.backwards >= each.times * each.length for each in life.epochs)
    return epochs >= 2 or (life.steps >= _STEPS and whole)
