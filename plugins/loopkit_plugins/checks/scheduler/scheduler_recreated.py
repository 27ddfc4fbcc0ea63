"""A scheduler that is made anew again and again."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Finding, Run, SchedulerReading, Severity, hookimpl

_LIVES = 3
_LIVES_WITHOUT_END = 4  # where nothing tells how long one should have lived


class SchedulerRecreated:
    """A scheduler is made inside the loop: each one begins at 0 and is thrown away before its schedule is over.

    What it looks for
        When the run ends: three schedulers and more that were made at one line for one optimizer, each beginning at
        0, of which none came past half of its schedule (`T_max`, `step_size`, the warm-up); or four, where the
        schedule has no end.

    Why that hurts
        The constructor sets the rate back to the base rate: the schedule never gets further than its first part.

    A loop that has it
        for epoch in range(epochs):
            scheduler = CosineAnnealingLR(optimizer, T_max=epochs)
            train_one_epoch(model, optimizer)
            scheduler.step()

    The repair
        Make the scheduler once, before the loop.

    Left alone
        A schedule for each fold, with an optimizer of its own; cycles and stages that are lived to their end; cyclic
        schedules; a `LambdaLR`, of which the end is not known (info).

    What it costs
        One look at each scheduler when the run ends.
    """

    rule = "scheduler-recreated"
    severity = Severity.WARNING
    confidence = Confidence.PROOF

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Judge the schedulers of each line."""
        lines: dict[tuple[object, ...], list[SchedulerReading]] = {}
        for reading in run.schedules() + run.schedules(unused=True):
            life = reading.life
            if life.made is not None and life.started in (0, None) and not life.shape.cycles and not life.shape.mode:
                lines.setdefault((life.made.place, life.driven, reading.scheduler), []).append(reading)
        for readings in lines.values():
            lives = _of_one_optimizer(sorted(readings, key=lambda reading: reading.life.serial))
            ends = [end for reading in lives if (end := _end(reading)) is not None]
            if len(lives) < (_LIVES if ends else _LIVES_WITHOUT_END):
                continue
            if not ends or all(2 * reading.life.advances < end for reading, end in zip(lives, ends, strict=False)):
                yield self._finding(lives, ends)

    def _finding(self, lives: list[SchedulerReading], ends: list[int]) -> Finding:
        last = lives[-1]
        made = last.life.made or last.life.site
        longest = max(reading.life.advances for reading in lives)
        of = f" of {ends[0]}" if ends else ""
        return Finding(
            rule=self.rule,
            severity=Severity.INFO if last.scheduler in ("LambdaLR", "MultiplicativeLR") else self.severity,
            confidence=self.confidence,
            place=made.place,
            places={"scheduler made": made.place, "scheduler": last.life.site.place},
            subject=last.scheduler,
            seen=f"{len(lives)} {last.scheduler} schedulers were made at this line for the same {last.optimizer}, "
            f"one after another; each began at 0, and none came further than advance {longest}{of}",
            why="each one sets the learning rate back to the base rate: the schedule never gets past its beginning",
            remedy="make the scheduler once, before the loop",
            evidence={
                "scheduler": last.scheduler,
                "optimizer": last.optimizer,
                "made": len(lives),
                "longest": longest,
                "horizon": ends[0] if ends else None,
                "made_frames": [str(place) for place in made.chain],
            },
        )


def _of_one_optimizer(readings: list[SchedulerReading]) -> list[SchedulerReading]:
    """The longest row of schedulers each of which was made after its optimizer had stepped under the one before.

    Numbers of optimizers that are gone are given again: a new one has not stepped when its scheduler is made.
    """
    best: list[SchedulerReading] = []
    row: list[SchedulerReading] = []
    before = -1
    for reading in readings:
        made_at = reading.steps_before - (reading.life.steps_then if reading.life.advances else reading.life.steps)
        if made_at <= before:
            row = []
        row = [*row, reading]
        before = made_at
        best = max(best, row, key=len)
    return best


def _end(reading: SchedulerReading) -> int | None:
    """The advance by which a schedule should have done what it is for."""
    shape = reading.life.shape
    return shape.horizon or (2 * shape.every if shape.every else None) or (2 * shape.warmup if shape.warmup else None)
