"""Steps between their beginning and their end: they nest, hold closures, and may be left by an exception."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loopkit.holdings import Owner, State

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from loopkit.callsite import Site
    from loopkit.ledger import Ledger
    from loopkit.reading import RawReading


class OpenStep:
    """A step between its pre and its post hook. Filled by whoever opens it: a constructor would be a frame a step."""

    key: int
    owner: Owner
    site: Site
    closure = sure = wraps = False
    usual: State | None = None  # of all its gradients, where the ledger has looked at them as usual
    before = 0
    reading: RawReading | None = None


class OpenSteps:
    """The steps that are open, the outermost first."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.stack: list[OpenStep] = []

    def begin(self, step: OpenStep) -> None:
        """Open one. Those around it only wrap it: SAM and Lookahead step another optimizer inside their own step."""
        if step.closure:
            self._ledger.closure_began()
        if self.stack:
            for outer in self.stack:
                outer.wraps = True
        self.stack.append(step)

    def abandon(self, owner: Owner) -> None:
        """Drop a step of this optimizer that an exception left open, and all inside it."""
        while any(step.owner is owner for step in self.stack):
            if self.stack.pop().closure:
                self._ledger.closure_ended()

    def end(self, step: OpenStep | None, optimizer: Optimizer) -> OpenStep | None:
        """Close the step of this very object; None when it was not open.

        Args:
            step: the innermost, taken off the stack.
            optimizer: whose step ended.
        """
        while step is not None:
            if step.closure:
                self._ledger.closure_ended()
            if step.key == id(optimizer):
                break
            step = self.stack.pop() if self.stack else None
        return step
