"""The mean loss of an evaluation, weighted by samples. Summed on the device: nothing waits for it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import Any, NamedTuple

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


class Criterion(NamedTuple):
    """A function of torch that makes a loss.

    Args:
        kind: what it is called in the name of a metric.
        owner: the module it stands in.
        name: there.
        reduction: the position of that argument: 0 none, 1 mean, 2 sum.
        ignore: the position of the class that does not count; 0 for none.
    """

    kind: str
    owner: Any
    name: str
    reduction: int
    ignore: int = 0


CRITERIA = (
    Criterion("cross_entropy", torch._C._nn, "cross_entropy_loss", 3, 4),
    Criterion("nll_loss", torch._C._nn, "nll_loss_nd", 3, 4),
    Criterion("mse_loss", torch._C._nn, "mse_loss", 2),
    Criterion("l1_loss", torch._C._nn, "l1_loss", 2),
    Criterion("smooth_l1_loss", torch._C._nn, "smooth_l1_loss", 2),
    Criterion("huber_loss", torch._C._nn, "huber_loss", 2),
    Criterion("binary_cross_entropy", torch._C._nn, "binary_cross_entropy", 3),
    Criterion("binary_cross_entropy_with_logits", torch, "binary_cross_entropy_with_logits", 4),
    Criterion("kl_div", torch, "kl_div", 2),
)
_SUM = 2


def mean_of(criterion: Criterion, args: tuple[Any, ...], result: Tensor) -> tuple[Tensor, int]:
    """The mean loss of a batch, 0-dim, and its samples.

    Args:
        criterion: the function.
        args: what it was called with, input and target first.
        result: what it returned.
    """
    result, samples = result.detach(), batch_size(args[:1])
    if criterion.ignore and args[0].dim() == 1:
        samples = 1  # the dimension is that of the classes
    if result.dim():
        return result.mean(), samples
    if len(args) > criterion.reduction and args[criterion.reduction] == _SUM:
        return result / _terms(criterion, args, samples), samples
    return result, samples


def _terms(criterion: Criterion, args: tuple[Any, ...], samples: int) -> Tensor | int:
    """How many terms a sum has: what the mean would divide by, but for class weights."""
    if criterion.kind == "kl_div":  # a divergence is that of a sample
        return max(1, samples)
    target: Tensor = args[1]
    if not criterion.ignore:
        return max(1, int(args[0].numel()))
    if target.is_floating_point():  # probabilities of classes
        return max(1, int(target.numel()) // int(target.shape[1] if target.dim() > 1 else target.numel()))
    ignored = args[criterion.ignore] if len(args) > criterion.ignore else -100
    counted: Tensor = (target != ignored).sum()
    return counted.clamp(min=1)


def batch_size(values: Iterable[Any]) -> int:
    """The first dimension of the first tensor among these; 1 where there is none."""
    for value in values:
        for each in value.values() if isinstance(value, dict) else (value,):
            if isinstance(each, Tensor):
                return int(each.shape[0]) if each.dim() else 1
    return 1
