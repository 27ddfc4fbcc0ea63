"""What an executed step did to the parameters that are looked at, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loopkit.callsite import Site


@dataclass(frozen=True, slots=True)
class Effect:
    """What one step did, and those before it that were looked at.

    Args:
        made: where the optimizer was constructed, if that was heard.
        unmoved: for how many steps samples of its parameters have kept the same bits, though their gradients and
            rates would have moved them each time; 0 where any has moved.
        sampled: of how many parameters.
        frozen: how many parameters with `requires_grad` False hold a gradient that no backward has made since the
            last step.
        drifted: whether this step moved any of those that are sampled.
        rates: of each group, at this step; empty where they are no plain numbers.
    """

    made: Site | None
    unmoved: int
    sampled: int
    frozen: int
    drifted: bool
    rates: tuple[float, ...]
