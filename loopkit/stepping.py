"""Optimizer steps: between their beginning and their end, and what their gradients were."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loopkit.clearing import Clearing
from loopkit.expected import NOTHING, STEPPED
from loopkit.ledger import sequence_number
from loopkit.opensteps import OpenStep
from loopkit.reading import read
from loopkit.signature import SKIP, STEP

if TYPE_CHECKING:
    from torch.optim import Optimizer


class Stepping(Clearing):
    """A record that hears of them."""

    def step_began(self, optimizer: Optimizer, closure: bool) -> None:
        """The real optimizer is about to step."""
        expected, site = self.expected, self.sites.here(STEP, brief=True)
        if expected is not NOTHING:
            if expected.kind == STEP and expected.key == id(optimizer) and site is expected.site and not closure:
                refs = self.ledger.as_usual(optimizer)
                if refs is not None and self._settled is not None:
                    self._settled.refs = refs
                    self.ledger.late = None
                    self.expected = expected.then
                    return
            self.wake()
        if self.evaluating and not closure:
            self.training_goes_on()
        ledger, opens = self.ledger, self._open
        step = OpenStep()
        step.key, step.site = id(optimizer), site
        if ledger.late is not None and not closure and not opens.stack and ledger.look_as_usual(optimizer, step):
            opens.stack.append(step)
            return
        owner = ledger.known.get(id(optimizer))
        if owner is None or owner.optimizer() is not optimizer:
            owner = ledger.owner(optimizer)
        step.owner = owner
        if opens.stack:
            opens.abandon(owner)
        elif closure and self._stepped:
            self.close()
        if ledger.look_before_step(owner):
            step.sure = True
        if closure:
            step.closure, step.before = True, self._happened()
        else:
            step.reading = read(owner, ledger, step, inside_backward=self.in_backward > 0)
        if closure or opens.stack:
            opens.begin(step)
        else:
            opens.stack.append(step)  # the ordinary step

    def step_ended(self, optimizer: Optimizer) -> bool:
        """The step was executed. Returns whether it counts: a wrapper around another's step does not."""
        expected = self.expected
        if expected is not NOTHING:
            if expected.kind == STEPPED and expected.key == id(optimizer) and self._settled is not None:
                self._settled.moved = sequence_number()
                self.steps += 1
                self.expected = expected.then
                return True
            self.wake()
        stack = self._open.stack
        step = stack.pop() if stack else None
        if step is None or step.closure or step.key != id(optimizer):
            step = self._open.end(step, optimizer)
            if step is None:
                return False
        owner, site = step.owner, step.site
        if self.losses.walking:
            self.losses.stepped(owner)
            self.replicas.stepped(owner, self.backwards, self.steps)
        if step.wraps:
            self.ledger.consume(owner, site)
            return False
        reading = step.reading
        if reading is None:
            self.ledger.settle()
            # Lightning's manual optimization passes a closure that does nothing: a step like any other.
            step.closure = step.before != self._happened()
            reading = read(owner, self.ledger, step, inside_backward=self.in_backward > 0)
        ledger = self.ledger
        state = step.usual
        if state is not None and owner.uniform is state and ledger.late is None:
            ledger.use_as_usual(owner, state, site, sequence_number())
        else:
            ledger.consume(owner, site)
        owner.steps += 1
        owner.offers += 1
        self.steps += 1
        self._events.append((STEP | owner.bits | reading[1] << 12 | site.bits, site, reading))
        self._stepped = True
        return True

    def step_skipped(self, optimizer: Optimizer) -> None:
        """A GradScaler left the step out: its gradients count as used, and clearing them wipes nothing."""
        owner = self.ledger.owner(optimizer)
        owner.offers += 1
        site = self.sites.here(SKIP, brief=True)
        self.ledger.consume(owner, site, executed=False)
        self._note(SKIP | owner.bits | site.bits, site)
        self.losses.finite.skipped()

    def _happened(self) -> int:
        return self.forwards + self.evaluations + self.backwards + self.clears
