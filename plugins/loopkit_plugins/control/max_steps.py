"""Stop after a number of optimizer steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loopkit import StopTraining, UsageError, hookimpl

if TYPE_CHECKING:
    from loopkit import Run


class MaxSteps:
    """Ends training once `limit` optimizer steps were executed; `loopkit run --max-steps` uses it.

    Args:
        limit: executed steps of all optimizers, at least 1.

    Raises:
        UsageError: `limit` is less than 1.
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise UsageError(f"--max-steps takes a number of 1 or more, not {limit}")
        self.limit = limit

    @hookimpl
    def after_step(self, run: Run) -> None:
        """Count, and stop."""
        if run.steps >= self.limit:
            raise StopTraining(f"reached --max-steps {self.limit}")
