"""The training loss of an interval, summed where it is: on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from loopkit import Update


class Losses:
    """Adds up what is sent backward, until an optimizer steps.

    Attributes:
        divisor: what each loss of an accumulation window is divided by, where the graph of one has shown it.
    """

    def __init__(self) -> None:
        self.divisor = 1
        self._sum: Tensor | None = None
        self._count = 0

    def add(self, loss: Any) -> None:
        """A backward begins. Losses that are not a single real number are left out."""
        values = [loss] if isinstance(loss, Tensor) else list(loss) if isinstance(loss, (list, tuple)) else []
        found = [each for value in values if (each := _number(value)) is not None]
        for value in found:
            self._sum = value.clone() if self._sum is None else self._sum + value.to(self._sum.device)
        self._count += bool(found)

    def take(self, scale: Tensor | None) -> tuple[Tensor | None, int]:
        """The sum of what was added since the last call, on the device, and the number of backwards.

        Args:
            scale: what a GradScaler had multiplied the losses with.
        """
        total, count, self._sum, self._count = self._sum, self._count, None, 0
        if total is not None and scale is not None:
            total = total / scale.to(total.device)
        return total, count

    def learn(self, update: Update) -> None:
        """A window of n losses, each divided by n, sums up to their mean; undivided ones to n times that."""
        backwards = sum(event.kind.value == "backward" for event in update.events)
        factors = {loss.factor for _, loss in update.losses()}
        if backwards > 1 and len(factors) == 1:
            factor = factors.pop()
            self.divisor = backwards if abs(factor * backwards - 1) < 1e-3 else 1


def _number(value: Any) -> Tensor | None:
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.is_floating_point():
        return None
    plain: Tensor = value.to_local() if hasattr(value, "to_local") else value
    plain = plain.detach().reshape(())
    return plain.float() if plain.dtype in (torch.float16, torch.bfloat16) else plain
