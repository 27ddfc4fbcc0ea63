"""The scheduler advances before the optimizer's first step, in every iteration."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Event, Finding, SchedulerReading, Severity, Update, hookimpl


class SchedulerBeforeOptimizer:
    """The scheduler advances before the optimizer steps, so the first value of the schedule is never used.

    What it looks for
        A `scheduler.step()` that came before the first step of the optimizer it drives, and comes again, from the
        same line, once the optimizer has stepped: it stands before the step in the loop.

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
        A first step that a GradScaler skipped; fast-forwarding on resume, which another line does once; a scheduler
        told its position (`step(epoch)`) or a metric; constructors, which step once themselves; schedulers rebuilt
        in mid-run; several advances before the first step, which is another fault.

    What it costs
        Nothing beyond one look-up of the update's signature.
    """

    rule = "scheduler-before-optimizer"
    severity = Severity.WARNING
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._early: dict[tuple[int, int], list[Event]] = {}

    @hookimpl
    def update_finished(self, update: Update) -> Iterator[Finding]:
        """Remember what came before the first step, and report it when the same line comes again."""
        for event, reading in update.schedulers():
            if event.site is None or reading.explicit or not reading.optimizer:
                continue
            key = (reading.number, event.site.number)
            if reading.steps_before == 0:
                if update.updates <= 1 or key in self._early:
                    self._early.setdefault(key, []).append(event)
            elif key in self._early and len(self._early[key]) == 1:
                yield self._finding(event, reading, self._early.pop(key)[0], update)

    def _finding(self, event: Event, reading: SchedulerReading, first: Event, update: Update) -> Finding:
        assert event.site is not None
        steps = [
            site.place for step, data in update.steps() if (site := step.site) and data.optimizer == reading.optimizer
        ]
        where = f" at {steps[0]}" if steps else ""
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=event.site.place,
            places={"scheduler": event.site.place} | ({"step": steps[0]} if steps else {}),
            subject=reading.scheduler,
            seen=f"{reading.scheduler} advanced before the first step of {reading.optimizer}{where}, and again from "
            f"the same line after {reading.steps_before} of its steps",
            why="the first learning rate of the schedule is never used; warm-up and decay come one step early",
            remedy="call optimizer.step() first, then scheduler.step()",
            evidence={
                "scheduler": reading.scheduler,
                "optimizer": reading.optimizer,
                "position": reading.position,
                "first_frames": [str(place) for place in first.site.chain] if first.site else [],
                "framework": str(event.site.framework) if event.site.framework else None,
            },
            step=update.number,
        )
