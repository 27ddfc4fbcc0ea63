"""Numbers that stand for what a model was given at some steps, so that ranks can tell whether it was the same.

The sum of a few thousand elements' bits, each times its position: made on the device when the model is called, and
read after the step, in one transfer, in the rare updates whose graphs are walked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from loopkit.unseen import unseen

_TENSORS = 4
_ELEMENTS = 4096
_FIRST, _LATEST = 4, 4
_DEEPEST = 2
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class Digests:
    """Of what was given to each wrapper first in an update.

    Attributes:
        taken: for each wrapper, by its number: digests by optimizer and step, in the order they were taken.
    """

    def __init__(self) -> None:
        self.taken: dict[int, dict[str, int]] = {}
        self._waiting: dict[int, Tensor] = {}

    def given(self, wrap: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A wrapper is called with gradients on; only the first call of an update counts."""
        if wrap not in self._waiting:
            made = _digest([*_tensors(args, 0), *_tensors(tuple(kwargs.values()), 0)][:_TENSORS])
            if made is not None:
                self._waiting[wrap] = made

    def stepped(self, wrap: int, at: str) -> None:
        """A step used its gradients: read what is waiting."""
        waiting = self._waiting.pop(wrap, None)
        if waiting is None:
            return
        taken = self.taken.setdefault(wrap, {})
        taken[at] = int(waiting.item())
        if len(taken) > _FIRST + _LATEST:
            del taken[list(taken)[_FIRST]]

    def forget(self) -> None:
        """Another update begins."""
        self._waiting.clear()


def _tensors(values: tuple[Any, ...], depth: int) -> Iterator[Tensor]:
    for value in values:
        if type(value) is Tensor and value.element_size() in _BITS and not value.is_complex() and value.numel() > 1:
            yield value
        elif depth < _DEEPEST and isinstance(value, (tuple, list)):
            yield from _tensors(tuple(value[:_TENSORS]), depth + 1)
        elif depth < _DEEPEST and isinstance(value, dict):
            yield from _tensors(tuple(value.values()), depth + 1)


def _digest(tensors: list[Tensor]) -> Tensor | None:
    found = [each for each in tensors if each.device == tensors[0].device and each.layout is torch.strided]
    total: Tensor | None = None
    with unseen(), torch.no_grad():
        for each in found:
            if each.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
                return None
            flat = each.detach().reshape(-1)
            flat = flat[:: max(1, flat.numel() // _ELEMENTS)].contiguous().view(_BITS[each.element_size()])
            weights = torch.arange(1, flat.numel() + 1, device=flat.device)
            own = (flat.to(torch.int64) * weights).sum()
            total = own if total is None else total * 31 + own
    return total
