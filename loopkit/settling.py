"""Loops that have settled: while each update is like the last, its events are compared and nothing is written down.

Most updates of a run are of one shape. After `REPEATS` of one, the next is *expected*: each event is compared with
the one expected (its kind, its call site, its optimizer; at the step its gradients), which costs half of what reading
it does. The counters that anybody may ask for go on. Whatever is not expected, and whoever asks, *wakes* the record:
what the stretch has left out is written down first, and then all is as if nothing had been left out. A property-based
test holds the two against each other.

A stretch ends by itself before every update that is more than its like: told to checks, walked, timed, sampled, or
looked at in full.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loopkit.expected import BACKED, NOTHING, STEPPED, Expected, Settled, settled
from loopkit.opensteps import OpenStep
from loopkit.phases import Phases
from loopkit.signature import BACKWARD, BATCH, FORWARD, SCHEDULER, STEP, ZERO_GRAD, Signature

if TYPE_CHECKING:
    from collections.abc import Callable

    from loopkit.inputs import Inputs
    from loopkit.ledger import Ledger
    from loopkit.models import Models
    from loopkit.reading import RawReading
    from loopkit.schedulers import RawAdvance
    from loopkit.update import Update

REPEATS = 32
"""Updates of one shape after which the next is expected; and, doubled each time, after a stretch that was in vain."""
_LONGEST_WAIT = 8  # doublings
_SHORTEST = 2  # updates of a stretch that is worth its while


class Settling(Phases):
    """A record that leaves out what repeats itself."""

    forwards: int
    backwards: int
    in_backward: int
    searching: bool
    _forwards_before: int
    _inputs: Inputs

    def __init__(self, ledger: Ledger, models: Models, deliver: Callable[[Update, Signature], None]) -> None:
        super().__init__(ledger, models, deliver)
        self._settled: Settled | None = None
        self._settles_at = 0  # updates after which a stretch may begin
        self._in_vain = 0  # stretches in a row that came to nothing

    # -- a stretch begins and goes on --------------------------------------------------------------------

    def _repeats(self, signature: Signature, seen: int, first: int) -> None:
        """An update closed that is like many before, and the next begins with the event `first`.

        That event itself is read in full: it is about to be.
        """
        updates, owner, ledger = self.history.updates, self.ledger.usual, self.ledger
        if seen <= REPEATS or updates < self._settles_at or owner is None or ledger.late is not None:
            return
        if self.weight or self.losses.walking or self.evaluating or self.searching or self.in_backward:
            return
        left = min(
            self.timed_after(updates) - 1 - updates,
            self.losses.levels.due - 1 - updates,
            (1 << seen.bit_length()) - 1 - seen,
            ledger.until_in_full(owner) - 1,
        )
        if left < _SHORTEST:
            return
        plan = self._settled
        schedule = next((raw[0] for code, _, raw in self._events if code & 15 == SCHEDULER), None)
        if plan is None or plan.signature != signature or plan.owner is not owner or plan.schedule is not schedule:
            plan = self._settled = settled(signature, self._events, owner)
        if plan is None or plan.first != first or not (owner.blank or plan.clears_late):
            self._settles_at = updates + REPEATS
            return
        plan.left, plan.done, plan.steps = left, 0, self.steps
        self.expected, ledger.wake = plan.nodes[1], self.wake

    def _goes_on(self) -> bool:
        """An update begins as expected: the one before closes, unless it is to be closed in full."""
        plan = self._settled
        if plan is None or plan.left <= 0:
            return False
        plan.left -= 1
        plan.done += 1
        return True

    def _goes_ahead(self, scheduler: Any) -> bool:
        """It is this scheduler that is expected to advance. Where it stands is kept: it may soon be gone."""
        plan, expected = self._settled, self.expected
        if plan is None or plan.schedule is None or plan.schedule.alive() is not scheduler:
            return False
        if expected.closes and not self._goes_on():
            return False
        plan.position, plan.rates = getattr(scheduler, "last_epoch", None), getattr(scheduler, "_last_lr", None)
        return True

    # -- a stretch ends ----------------------------------------------------------------------------------

    def wake(self) -> None:
        """Write down what was left out."""
        expected, plan = self.expected, self._settled
        if expected is NOTHING or plan is None:
            return
        self.expected, self.ledger.wake = NOTHING, None
        passed = expected.index or len(plan.nodes)
        if plan.left > 0:
            self._in_vain = self._in_vain + 1 if plan.done < _SHORTEST else 0
            if self._in_vain:
                wait = REPEATS << min(self._in_vain, _LONGEST_WAIT)
                self._settles_at = self.history.updates + plan.done + wait
        if plan.done or passed > 1:
            self._write_down(plan, passed)

    def _write_down(self, plan: Settled, passed: int) -> None:
        history, owner = self.history, plan.owner
        history.occurrences[plan.signature] = history.occurrences.get(plan.signature, 0) + plan.done
        history.updates += plan.done
        nodes = plan.nodes[:passed]
        kinds = {node.kind for node in nodes}
        before = self.steps - plan.steps - (STEPPED in kinds)
        owner.steps += before
        owner.offers += before
        if plan.done and passed < len(plan.nodes):
            self._replay(plan, plan.nodes, passed)  # what the update before the last one left
        elif plan.done:
            owner.last_site = plan.nodes[plan.at(STEP)].site  # all of it that the last one does not replace
        reading = self._replay(plan, nodes, passed)
        if STEPPED in kinds:
            owner.steps += 1
            owner.offers += 1
        readings: dict[int, Any] = {STEPPED: reading, SCHEDULER: self._advanced(plan, passed)}
        # What has no reading is the very tuple it was, which those after it are compared with.
        events = [
            (*node.event[:2], readings[node.kind]) if node.kind in readings else node.event
            for node in nodes
            if node.event is not None
        ]
        self._events[plan.done == 0 :] = events[plan.done == 0 :]  # the very first was read in full
        self._stepped, self._truncated = STEPPED in kinds, False
        self._prelude_over = self.losses.wanted = BACKWARD in kinds
        self._prelude = set()
        for node in nodes[: plan.at(BACKWARD)]:
            if node.kind in (SCHEDULER, ZERO_GRAD) and node.site is not None:
                self._prelude.add(node.kind + 16 * node.site.spot)
        self._forwards_before = self.forwards - (FORWARD in kinds and BACKED not in kinds)
        # A signal's handler may ask in the midst of an event, which then goes on with what is written down here.
        plan.done, plan.steps = 0, self.steps

    def _replay(self, plan: Settled, nodes: list[Expected], passed: int) -> RawReading | None:
        """Have the ledger write down one update's events; what its step used, if it came to that."""
        ledger, owner, now = self.ledger, plan.owner, self.ledger.now
        step = OpenStep()
        for node in nodes:
            if node.kind == FORWARD:
                now.tick = ledger.last_forward = now.tick + 1
            elif node.kind == BACKED and node.site is not None:
                batch = self.batches - plan.since(BATCH, BACKED, passed)
                ledger.put_off(node.site, batch, self._inputs.told())
            elif node.kind == STEP and node.site is not None:
                step.key, step.site = node.key, node.site
                ledger.take_as_usual(owner, plan.refs, step)
                self._open.stack.append(step)
            elif node.kind == STEPPED and step.usual is not None:
                self._open.stack.pop()
                ledger.use_as_usual(owner, step.usual, step.site, plan.moved)
            elif node.kind == ZERO_GRAD:
                now.tick += 1
                owner.empty()
        return step.reading

    def _advanced(self, plan: Settled, passed: int) -> RawAdvance | None:
        """Bring the scheduler's life up to date; its last advance."""
        schedule, count = plan.schedule, plan.times(SCHEDULER, passed)
        if schedule is not None and count:
            site = plan.nodes[plan.at(SCHEDULER)].site
            assert site is not None
            offers = plan.owner.offers - plan.since(STEPPED, SCHEDULER, passed)
            backwards = self.backwards - plan.since(BACKED, SCHEDULER, passed)
            schedule.advances += count
            schedule.last = schedule, site, offers, plan.position, False, plan.rates, backwards
        return schedule.last if schedule is not None else None
