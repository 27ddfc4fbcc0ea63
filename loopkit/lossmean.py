"""The mean loss of an evaluation, weighted by samples. It is summed where the losses are: nothing waits for a device."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

OWN = "loss"
"""The kind of a loss that a model returns as its `.loss`: it goes before all others."""


class LossMeans:
    """Sums losses by kind and by loader."""

    def __init__(self) -> None:
        self._sums: dict[Hashable, dict[str, tuple[Tensor, int]]] = {}

    def add(self, loader: Hashable, kind: str, mean: Tensor, samples: int) -> None:
        """Add the mean loss of one batch.

        Args:
            loader: where the batch came from; anything that tells it from others.
            kind: the function's name, or `OWN`.
            mean: of the batch, 0-dim.
            samples: how many the batch has.
        """
        sums = self._sums.setdefault(loader, {})
        # In double precision, where the device has it: thousands of batches are summed.
        value = mean if mean.device.type == "mps" else mean.double()
        total, count = sums.get(kind, (None, 0))
        weighted = value * samples
        sums[kind] = (weighted if total is None else total + weighted, count + samples)

    def told(self) -> Iterator[tuple[str, Tensor]]:
        """Name and mean, 0-dim, of each kind: "val/loss", and of further loaders "val2/loss".

        A loss of another kind than the first, or than the model's own, is named after its function.
        """
        with torch.no_grad():
            for number, sums in enumerate(self._sums.values(), 1):
                first = OWN if OWN in sums else next(iter(sums))
                for kind, (total, count) in sums.items():
                    split = "val" if number == 1 else f"val{number}"
                    yield f"{split}/{'loss' if kind == first else kind}", total / max(1, count)


def mean_of(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> tuple[Tensor, int]:
    """The mean loss of a batch, 0-dim, from what a loss function was called with and returned; and its samples."""
    given = inspect.signature(function).bind(*args, **kwargs)
    given.apply_defaults()
    called = given.arguments
    result, input = result.detach(), called["input"]
    samples = batch_size([input])
    summed = called["reduction"] == "sum" or (called.get("size_average") is False and called.get("reduce") is not False)
    if result.dim():
        return result.mean(), samples
    return (result / _terms(called, samples) if summed else result), samples


def _terms(called: dict[str, Any], samples: int) -> Tensor | int:
    """How many terms a sum has: what the mean would divide by, but for class weights."""
    if "log_target" in called:  # of divergences there is one a sample
        return samples
    target = called["target"]
    if "ignore_index" in called and not target.is_floating_point():
        return (target != called["ignore_index"]).sum().clamp(min=1)
    if "ignore_index" in called:
        return int(max(1, target.numel() // (target.shape[1] if target.dim() > 1 else target.numel())))
    return max(1, int(called["input"].numel()))


def batch_size(values: Iterable[Any]) -> int:
    """The first dimension of the first tensor among these; 1 where there is none."""
    for value in values:
        for each in value.values() if isinstance(value, dict) else (value,):
            if isinstance(each, Tensor):
                return int(each.shape[0]) if each.dim() else 1
    return 1
