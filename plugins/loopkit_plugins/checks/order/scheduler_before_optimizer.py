"""The scheduler advances before the optimizer's first step, in every iteration."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Event, Finding, Kind, SchedulerReading, Severity, Site, StepReading, Update, hookimpl


class SchedulerBeforeOptimizer:
    """The scheduler advances before the optimizer steps, so the first value of the schedule is never used.

    What it looks for
        A `scheduler.step()` that came before the first step of the optimizer it drives, and comes again, from the
        same line, once the optimizer has stepped. That line stands above the step's in the function that leads to
        both, or, where there is no such function, comes before it in the update.

    Why that hurts
        The first learning rate of the schedule is skipped and everything after it comes one step early: warm-up and
        decay are shifted. PyTorch warns once, usually lost in the log.

    A loop that has it
        for epoch in range(epochs):
            scheduler.step()
            for x, y in loader:
                ...
                optimizer.step()

    The repair
        Call `optimizer.step()` first, then `scheduler.step()`.

    Left alone
        A first step that a GradScaler skipped or that comes late (a delayed actor, a lost batch); fast-forwarding
        on resume; a scheduler told its position (`step(epoch)`) or a metric; constructors, which step once;
        schedulers rebuilt in mid-run; several advances before the first step, which is another fault.

    What it costs
        Nothing beyond one look-up of the update's signature.
    """

    rule = "scheduler-before-optimizer"
    severity = Severity.WARNING
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._early: dict[tuple[int, int], int] = {}

    @hookimpl
    def update_finished(self, update: Update) -> Iterator[Finding]:
        """Remember what came before the first step, and report it when the same line comes again before a step."""
        for at, event in enumerate(update.events):
            reading = event.reading
            if not isinstance(reading, SchedulerReading) or event.site is None:
                continue
            if reading.explicit or not reading.optimizer:
                continue
            key = (reading.number, event.site.number)
            if reading.steps_before == 0:
                self._early[key] = self._early.get(key, 0) + 1
            elif self._early.get(key) == 1 and (step := _step_it_precedes(update, at, reading)):
                del self._early[key]
                yield self._finding(event, reading, step, update)

    def _finding(self, event: Event, reading: SchedulerReading, step: Site, update: Update) -> Finding:
        assert event.site is not None
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=event.site.place,
            places={"scheduler": event.site.place, "step": step.place},
            subject=reading.scheduler,
            seen=f"{reading.scheduler} advanced before the first step of {reading.optimizer} at {step.place}, and "
            f"again from the same line after {reading.steps_before} of its steps",
            why="the first learning rate of the schedule is never used; warm-up and decay come one step early",
            remedy="call optimizer.step() first, then scheduler.step()",
            evidence={
                "scheduler": reading.scheduler,
                "optimizer": reading.optimizer,
                "position": reading.position,
                "scheduler_frames": [str(place) for place in event.site.chain],
                "step_frames": [str(place) for place in step.chain],
                "framework": str(event.site.framework) if event.site.framework else None,
            },
            step=update.number,
        )


def _step_it_precedes(update: Update, at: int, reading: SchedulerReading) -> Site | None:
    """The step that this advance stands before: in the source where both are in one function, else in the record."""
    scheduler = update.events[at].site
    for later, event in enumerate(update.events):
        if isinstance(event.reading, StepReading) and event.reading.optimizer == reading.optimizer:
            if scheduler is None or event.site is None:
                return None
            stands = _stands_before(scheduler, event.site)
            if stands is None:
                stands = at < later and not _inside_a_window(update, at, later)
            return event.site if stands else None
    return None


def _stands_before(one: Site, other: Site) -> bool | None:
    """Whether the first call stands above the second in the function that leads to both; None when there is none."""
    for a, b in zip(reversed(one.chain), reversed(other.chain), strict=False):
        if (a.file, a.function) != (b.file, b.function):
            return None
        if a.line != b.line:
            return a.line < b.line
    return None


def _inside_a_window(update: Update, at: int, later: int) -> bool:
    """Whether backwards came before the advance and between it and the step: it follows micro-batches."""
    kinds = [event.kind for event in update.events]
    return Kind.BACKWARD in kinds[:at] and Kind.BACKWARD in kinds[at:later]
