"""At which updates something is read."""

from __future__ import annotations


class Schedule:
    """Every so many updates, and at some early ones. What falls due between two steps of an optimizer is done at the
    next: of two that take turns, each has its own.

    Args:
        every: updates between two readings; None for none at all.
        early: updates that are read as well.
    """

    def __init__(self, every: int | None, early: tuple[int, ...] = (1,)) -> None:
        self._every = every
        self._early = early
        self._next: float = float("inf")
        self.done(0)

    def due(self, update: int) -> bool:
        """Whether to read at this update."""
        return update >= self._next

    def done(self, update: int) -> None:
        """It was read at this update."""
        if self._every is not None:
            later = [each for each in self._early if each > update]
            self._next = min(*later, (update // self._every + 1) * self._every) if later else self._after(update)

    def _after(self, update: int) -> float:
        return (update // (self._every or 1) + 1) * (self._every or 1)
