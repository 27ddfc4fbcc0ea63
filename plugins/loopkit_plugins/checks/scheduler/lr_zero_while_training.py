"""Updates at a learning rate of 0."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from loopkit import Confidence, Event, Finding, Ledger, Place, Run, Severity, StepReading, Update, hookimpl

_FIRST = 3  # updates at 0 when training begins; the first of a linear warm-up is at 0 by design
_LAST = 20  # updates at 0 when it ends that are more than a tail
_NO_RATE = ("Rprop",)  # its step sizes do not depend on the rate once it has begun


class LrZeroWhileTraining:
    """Steps go on although the learning rate of every group is 0.

    What it looks for
        An optimizer of torch's whose groups all have a rate of 0 in one update after another, with the same weights
        before and after: in the whole run, when it begins (a warm-up that is advanced once an epoch starts with an
        epoch at 0; `step // warmup` stays 0 until the warm-up is over), or, where no scheduler drives it, when it
        ends.

    Why that hurts
        An update at a rate of 0 leaves the weights as they are: the loss of these updates is computed for nothing.

    A loop that has it
        scheduler = LambdaLR(optimizer, lambda epoch: epoch / 5)
        for epoch in range(epochs):
            train_one_epoch(model, optimizer)
            scheduler.step()

    The repair
        Advance a warm-up with every update, or let it begin above 0: `(step + 1) / warmup`. Divide with `/`, not
        with `//`. Extend the schedule to the end of the run, or end the run with the schedule.

    Left alone
        The first update of a linear warm-up and the end of a decay; a group whose rate is 0 while another's is not;
        rates that are tensors, which are not read. While another optimizer trains at a rate above 0, it is info.
        A schedule that ends too early is told of by `schedule-horizon-mismatch`.

    What it costs
        In updates of a new shape, a look at the rates of the optimizers that stepped; while they are 0, four numbers
        are read from the device as well.
    """

    rule = "lr-zero-while-training"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._now: dict[int, _Stretch] = {}
        self._at_first: dict[int, _Stretch] = {}
        self._trains: set[int] = set()

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> None:
        """Note since when all rates have been 0."""
        ledger = run.instrument(Ledger)
        for event, step in update.steps():
            owner = ledger.numbered(step.number)
            rates = owner.rates() if owner is not None and step.stock else ()
            if owner is None or not rates or step.optimizer.startswith(_NO_RATE):
                continue
            if any(rates):
                self._trains.add(step.number)
                ended = self._now.pop(step.number, None)
                if ended is not None and ended.first == 1:
                    self._at_first[step.number] = ended
                continue
            weights = _sample(owner.parameters()[-1]) if owner.parameters() and not owner.sharded else ()
            known = self._now.get(step.number)
            if known is None or known.weights != weights:
                known = self._now[step.number] = _Stretch(event, step, step.steps, step.steps, weights)
            known.last = step.steps

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Judge the stretches."""
        made = {reading.life.driven: reading.life.made for reading in run.schedules(unused=True) + run.schedules()}
        for number, stretch in [*self._at_first.items(), *self._now.items()]:
            total = stretch.last
            whole = number not in self._trains
            begins = stretch.first == 1 and not whole
            if stretch.last - stretch.first < (_FIRST if stretch.first == 1 else _LAST):
                continue
            if not whole and not begins and (number in made or 10 * (total - stretch.first) < total):
                continue
            site = made.get(number) or stretch.event.site
            if site is not None:
                alone = not self._trains - {number}
                severity = (self.severity if whole else Severity.WARNING) if alone else Severity.INFO
                driven = "" if made.get(number) is None else ", as its scheduler has set it"
                yield self._finding(stretch, whole, severity, driven, site.place)

    def _finding(self, stretch: _Stretch, whole: bool, severity: Severity, driven: str, place: Place) -> Finding:
        step, site = stretch.step, stretch.event.site
        if whole:
            when = f"in every update that was looked at, until update {stretch.last}"
        else:
            when = f"from update {stretch.first} to update {stretch.last}"
        return Finding(
            rule=self.rule,
            severity=severity,
            confidence=self.confidence,
            place=place,
            places={"step": site.place} if site is not None else {},
            subject=step.optimizer,
            seen=f"the learning rate of {step.optimizer} was 0 in all groups {when}{driven}; its weights stayed as "
            "they were",
            why="an update at a rate of 0 leaves the weights as they are: "
            + ("nothing was trained" if whole else "these updates did nothing"),
            remedy="let the warm-up begin above 0, as (step + 1) / warmup does, divide with / and not with //, and "
            "advance the scheduler in the unit in which its function counts",
            evidence={
                "optimizer": step.optimizer,
                "first": stretch.first,
                "last": stretch.last,
                "whole_run": whole,
                "step_frames": [str(each) for each in site.chain] if site is not None else [],
            },
        )


@dataclass
class _Stretch:
    """Updates of one optimizer at a rate of 0, with what weights it began."""

    event: Event
    step: StepReading
    first: int
    last: int
    weights: tuple[float, ...]


def _sample(parameter: Tensor) -> tuple[float, ...]:
    return tuple(parameter.detach().reshape(-1)[:4].tolist())
