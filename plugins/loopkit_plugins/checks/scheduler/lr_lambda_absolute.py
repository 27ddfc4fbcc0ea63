"""A `LambdaLR` whose function returns a rate instead of a factor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from loopkit import Confidence, Finding, Run, ScheduleReading, SchedulerReading, Severity, Update, hookimpl

_LEAST = 8  # advances and updates from which on a schedule is judged
_LARGEST = 0.3  # a base rate above this may as well be a factor
_SAME = 1e-6


class LrLambdaAbsolute:
    """The function of a `LambdaLR` returns the learning rate itself, which is multiplied with the base rate again.

    What it looks for
        A `LambdaLR` whose factor is never larger than the base rate and reaches it: the highest factor seen is the
        base rate itself, or at least half of it where the function can see the number (a constant of its code, a
        variable, a field of a settings object).

    Why that hurts
        The rate that is used is the square of the one that was meant, 1e-6 instead of 1e-3: training hardly moves.

    A loop that has it
        optimizer = AdamW(model.parameters(), lr=LR)
        scheduler = LambdaLR(optimizer, lambda step: LR * min(1, (step + 1) / warmup))

    The repair
        Return a factor, `min(1, (step + 1) / warmup)`; or give the optimizer `lr=1.0`.

    Left alone
        Functions that return a factor: these come near 1 at some time. Base rates above 0.3, a rate that still rises
        when the run ends, runs of less than eight updates, resumed schedulers, rates that are tensors.

    What it costs
        One look-up of the update's signature, and one look at each scheduler when the run ends.
    """

    rule = "lr-lambda-absolute"
    severity = Severity.WARNING
    confidence = Confidence.HEURISTIC

    def __init__(self) -> None:
        self._peaks: dict[int, _Peak] = {}

    @hookimpl
    def update_finished(self, update: Update) -> None:
        """Note the highest factor of each schedule."""
        for _, advance in update.schedulers():
            self._note(advance)

    def _note(self, advance: SchedulerReading) -> None:
        life = advance.life
        if advance.scheduler != "LambdaLR" or not life.first_rates or max(life.base_rates, default=1) > _LARGEST:
            return
        peak = self._peaks.setdefault(life.serial, _Peak())
        if not peak.last:
            peak.saw(life.first_rates, life)
        peak.saw(life.rates, life)

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Judge each schedule by its highest factor."""
        for advance in run.schedules():
            life = advance.life
            self._note(advance)
            peak = self._peaks.get(life.serial)
            if peak is None or life.started != 0 or advance.explicit or min(life.advances, life.steps) < _LEAST:
                continue
            base = max(life.base_rates)
            knows = any(abs(number - base) <= _SAME * base for number in life.shape.fractions)
            exact = abs(peak.highest - 1) <= _SAME
            if exact or (knows and 0.5 <= peak.highest < 1 and peak.last < peak.highest):
                yield self._finding(advance, base, peak.highest * base, knows)

    def _finding(self, advance: SchedulerReading, base: float, factor: float, knows: bool) -> Finding:
        life = advance.life
        made = life.made or life.site
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=made.place,
            places={"scheduler made": made.place, "scheduler": life.site.place},
            subject=advance.scheduler,
            seen=f"the largest factor that the function of {advance.optimizer}'s LambdaLR scheduler returned was "
            f"{factor:.3g}, and the base rate it is multiplied with is {base:.3g}: the learning rate stayed at or "
            f"below {factor * base:.3g} (a heuristic)",
            why="LambdaLR multiplies: a function that returns the rate itself makes it the square of what was meant"
            + (", and this one can see the base rate" if knows else ""),
            remedy="return a factor between 0 and 1, without the base rate; or give the optimizer lr=1.0",
            evidence={
                "optimizer": advance.optimizer,
                "base_rate": base,
                "largest_factor": factor,
                "knows_base_rate": knows,
                "advances": life.advances,
                "scheduler_frames": [str(place) for place in life.site.chain],
            },
        )


@dataclass
class _Peak:
    """The highest and the last factor of a schedule, in base rates: 1 where the factor is the base rate."""

    highest: float = 0.0
    last: float = 0.0

    def saw(self, rates: tuple[float, ...], life: ScheduleReading) -> None:
        """Take the rates of all groups: one whose factor is above its base rate returns factors."""
        factors = [rate / base**2 for rate, base in zip(rates, life.base_rates, strict=False) if base > 0]
        self.last = max(factors, default=2.0)
        self.highest = max(self.highest, self.last)
