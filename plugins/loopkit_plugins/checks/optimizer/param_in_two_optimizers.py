"""Two optimizers move the same parameters with the same gradients."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from loopkit import Confidence, Event, Finding, Kind, Ledger, Run, Severity, StepReading, Update, hookimpl

_OFTEN = 2  # times: a hand-over from one optimizer to the next happens once
Step = tuple[int, Event, StepReading]


class ParamInTwoOptimizers:
    """Two optimizers own the same parameters, and both step on the gradients of one backward.

    What it looks for
        Two steps of different optimizers in one update, without a backward or a clear between them, that both use the
        gradients of the same backward, and parameters that both optimizers own.

    Why that hurts
        These parameters are moved twice by one gradient: their learning rate is the sum of two, and each optimizer
        keeps moments for a parameter that the other one moves.

    A loop that has it
        for_clicks = Adam([*embedding.parameters(), *clicks.parameters()])
        for_ratings = Adam([*embedding.parameters(), *ratings.parameters()])
        for x, y in loader:
            loss_of(x, y).backward()
            for_clicks.step()
            for_ratings.step()

    The repair
        Give each parameter to one optimizer; the shared ones to one of the two, or to a third.

    Left alone
        Optimizers that share parameters and step by turns, each on a backward of its own (players, tasks, inner and
        outer loops of meta-learning); wrappers around another's step (SAM, Lookahead); gradients written by hand
        (Reptile); a rate of 0; a hand-over, which happens once.

    What it costs
        A comparison of two lists of parameters, in updates in which two optimizers step.
    """

    rule = "param-in-two-optimizers"
    severity = Severity.WARNING
    confidence = Confidence.PROOF

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> Iterator[Finding]:
        """Compare the optimizers that stepped in this update."""
        if update.seen < _OFTEN:
            return
        steps: list[Step] = [
            (at, event, event.reading)
            for at, event in enumerate(update.events)
            if isinstance(event.reading, StepReading) and _is_ordinary(event.reading)
        ]
        for one, other in combinations(steps, 2):
            if one[2].number != other[2].number and _use_the_same(update, one, other):
                yield from self._compare(run, one, other, update.number)

    def _compare(self, run: Run, one: Step, other: Step, number: int) -> Iterator[Finding]:
        owners = {owner.number: owner for owner in run.instrument(Ledger).owners()}
        first, second = owners.get(one[2].number), owners.get(other[2].number)
        if first is None or second is None:
            return
        held = {id(each) for each in first.parameters() if each.requires_grad}
        shared = [each for each in second.parameters() if id(each) in held]
        if not shared:
            return
        made = second.made or first.made
        at = {"first step": one[1].site, "second step": other[1].site, "constructed": made}
        places = {name: site.place for name, site in at.items() if site is not None}
        yield Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=places.get("constructed", places.get("second step")),
            places=places,
            subject=f"{first.label} and {second.label}",
            seen=f"{len(shared)} parameters ({sum(each.numel() for each in shared):,} numbers) are in both "
            f"{first.label} ({len(held)} parameters) and {second.label} ({other[2].parameters}), and both stepped on "
            "the gradients of the same backward",
            why="shared parameters are moved twice by one gradient, each time by an optimizer that does not know of "
            "the other",
            remedy="give each parameter to one optimizer only",
            evidence={"optimizers": [first.label, second.label], "shared": len(shared)},
            step=number,
        )


def _is_ordinary(step: StepReading) -> bool:
    by_design = step.closure or step.inside_backward or step.wraps_a_step or step.idle or step.written
    return bool(step.fresh) and not by_design


def _use_the_same(update: Update, one: Step, other: Step) -> bool:
    """Whether what the first step used is what the second uses as well."""
    between = {event.kind for event in update.events[one[0] : other[0]]}
    if between & {Kind.BACKWARD, Kind.ZERO_GRAD, Kind.FORWARD, Kind.BATCH}:
        return False
    sites = {site.number for site in one[2].made_by} & {site.number for site in other[2].made_by}
    return bool(sites) and bool(set(one[2].batches) & set(other[2].batches))
