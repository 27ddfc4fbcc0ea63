"""Which input a model was given: the same object as last time, or another one."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch


class Inputs:
    """Numbers the inputs of a model; the number changes when it is given another tensor, or the same one refilled.

    Attributes:
        number: of the latest input.
        derived: it takes a gradient itself: an attack or a probe, not another batch.
    """

    def __init__(self) -> None:
        self.number = 0
        self.derived = False
        self._latest: Callable[[], object] = _nothing
        self._version = 0

    def told(self) -> int:
        """The number of the latest input; -1 where it takes a gradient itself."""
        return -1 if self.derived else self.number

    def saw(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The model was called. Of several inputs the first tensor counts."""
        first = args[0] if args else next(iter(kwargs.values()), None)
        if not isinstance(first, torch.Tensor):
            first = _first_tensor(first)
            if first is None:
                self.number += 1
                self.derived = False
                return
        if self._latest() is not first:
            self.number += 1
            self._latest = weakref.ref(first)
            try:
                self._version = first._version
            except RuntimeError:  # an inference tensor counts no changes
                self._version = 0
        elif not first.is_inference() and self._version != first._version:
            self.number += 1
            self._version = first._version
        self.derived = first.requires_grad


def _first_tensor(container: Any) -> torch.Tensor | None:
    """The first tensor in a dict, list or tuple of inputs, one level deep."""
    if isinstance(container, (list, tuple)):
        values = iter(container)
    elif hasattr(container, "values") and callable(container.values):
        values = iter(container.values())
    else:
        return None
    return next((value for value in values if isinstance(value, torch.Tensor)), None)


def _nothing() -> None:
    """Stands where a weak reference to an input would, while there is none."""
