"""Random numbers that forwards of a training step draw: whether two steps drew the very same.

Looked at where graphs are walked: the state of torch's generators before and after the outermost forward. If it moved
meanwhile, dropout or noise was drawn; if another step's forward ended in the same state, both drew the same numbers,
since a generator that is left alone never comes back to where it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from loopkit.unseen import unseen

if TYPE_CHECKING:
    from collections.abc import Iterable

    from loopkit.callsite import Site
    from loopkit.holdings import Owner

_KEPT = 8
State = tuple[Tensor, ...]


class Draws:
    """Compares the states in which forwards end.

    Attributes:
        same: the last two steps that drew the same numbers, as executed steps before each, and the forward; or None.
    """

    def __init__(self) -> None:
        self.same: tuple[int, int, Site] | None = None
        self._before: State | None = None
        self._ends: list[tuple[State, int, dict[Owner, int]]] = []

    @property
    def drew(self) -> bool:
        """Whether some forward drew random numbers."""
        return bool(self._ends)

    def forward_began(self) -> None:
        """The outermost forward of a training step begins."""
        self._before = _state()

    def forward_ended(self, steps: int, owners: Iterable[Owner], site: Site | None) -> None:
        """It ended, after so many executed steps of the run."""
        before, self._before = self._before, None
        after = _state() if before is not None else None
        if before is None or after is None or _is_same(before, after):
            return
        counts = {owner: owner.steps for owner in owners}
        for state, then, others in self._ends:
            # Another training in the same process, seeded alike, has another optimizer.
            goes_on = any(owner in others and others[owner] < count for owner, count in counts.items())
            if goes_on and then < steps and site is not None and _is_same(state, after):
                self.same = then, steps, site
        self._ends = [*self._ends[1 - _KEPT :], (after, steps, counts)]


def _state() -> State | None:
    """Of the CPU's generator, and the current GPU's, which is kept on the host: nothing is read from the device."""
    try:
        with unseen():
            states = [torch.default_generator.get_state()]
            if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
                if torch.cuda.is_current_stream_capturing():
                    return None
                states.append(torch.cuda.default_generators[torch.cuda.current_device()].get_state())
            return tuple(states)
    except (RuntimeError, AttributeError, IndexError):
        return None


def _is_same(one: State, other: State) -> bool:
    with unseen():
        return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
