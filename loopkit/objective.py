"""From a batch to a loss: calling the model, finding its loss, and weighing micro-batches against their window."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from loopkit.errors import UsageError
from loopkit.targets import Weight, counting_of, parted, target_of, weigh

_COUNT = "num_items_in_batch"


class Outcome(NamedTuple):
    """What came of a batch.

    Args:
        loss: a scalar.
        output: what metrics are given: the model's output; its logits where it returns its own loss.
        target: the batch's, or None.
    """

    loss: Any
    output: Any
    target: Any


class Objective:
    """How a model and its batches become a loss.

    Args:
        model: called with the input, or with a dict's items as keywords.
        loss: a function of (output, target); None where the model returns its own.
        step: a function of (model, batch) that returns the loss, or (loss, output), in their stead; or None.
        weight: what a batch weighs in its window, a number or a tensor of one element; None: its targets or samples.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Any, Any], Any] | None,
        step: Callable[[Any, Any], Any] | None,
        weight: Callable[[Any], Weight] | None,
    ) -> None:
        self._model, self._loss, self._step, self._weight = model, loss, step, weight
        inner = _inner(model)
        self._counting = counting_of(loss, inner)
        self._is_told = loss is None and step is None and _COUNT in inspect.signature(inner.forward).parameters

    def weigh(self, batch: Any) -> Weight:
        """What a batch weighs beside others."""
        return weigh(batch, self._counting) if self._weight is None else self._weight(batch)

    def weights(self, window: list[Any]) -> tuple[list[Weight], Weight | None]:
        """What each batch of a window weighs, and all together: None where nothing is to be weighed."""
        if not self._is_told and (len(window) == 1 or (self._counting.summed and self._weight is None)):
            return [1] * len(window), None
        weights = [self.weigh(batch) for batch in window]
        return weights, sum(weights)

    def share(self, batch: Any, weight: Weight, total: Weight | None) -> Tensor:
        """The loss of a batch, times its share of the window; fit to be sent backward.

        Raises:
            UsageError: it is no scalar, or nothing leads from it to a parameter.
        """
        loss = self.outcome(batch, total).loss
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise UsageError(f"the loss is {_told(loss)}, not a number: reduce it, with .mean() or reduction='mean'")
        if not loss.requires_grad:
            raise UsageError(
                "the loss is not connected to any parameter that requires a gradient: something between them is "
                "detached, under no_grad, read with .item(), or an argmax; or every parameter is frozen"
            )
        if total is None or self._is_told:
            return loss
        return loss * _quotient(weight, total, loss)

    def outcome(self, batch: Any, total: Weight | None = None) -> Outcome:
        """Loss, output and target of a batch.

        Args:
            batch: on the model's device.
            total: what the whole window weighs, for a model that asks for it.

        Raises:
            UsageError: the batch cannot be given to this model, or the model returned no loss.
        """
        model = self._model
        if self._step is not None:
            result = self._step(model, batch)
            loss, output = result if isinstance(result, tuple) else (result, None)
            return Outcome(loss, output, target_of(batch))
        if self._loss is not None:
            given, target = parted(batch)
            output = model(**given) if isinstance(given, Mapping) else model(given)
            return Outcome(self._loss(output, target), output, target)
        count = {_COUNT: total} if self._is_told and total is not None else {}
        if isinstance(batch, Mapping):
            output = model(**batch, **count)
        else:
            output = model(*batch, **count) if isinstance(batch, (tuple, list)) else model(batch, **count)
        return Outcome(_own_loss(output), _part(output, "logits", output), target_of(batch))


def counted(loss: Tensor, weight: Weight) -> Tensor:
    """A loss to be told: nothing where its batch weighs nothing, and its mean is none. It has no graph."""
    loss = loss.detach()
    return torch.where(weight > 0, loss, torch.zeros_like(loss)) if isinstance(weight, Tensor) else loss


def _quotient(weight: Weight, total: Weight, loss: Tensor) -> Weight:
    """A share, at least in single precision; 0 where the whole window weighs nothing."""
    if not isinstance(weight, Tensor) and not isinstance(total, Tensor):
        return weight / total if total else 0.0
    dtype = torch.float64 if loss.dtype is torch.float64 else torch.float32
    parts = torch.as_tensor(weight, dtype=dtype, device=loss.device), torch.as_tensor(total).to(loss.device, dtype)
    return parts[0] / parts[1].clamp(min=torch.finfo(dtype).tiny)


def _inner(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, or inside what torch.compile made."""
    for name in ("module", "_orig_mod"):
        inner = getattr(model, name, None)
        if isinstance(inner, nn.Module) and type(model).__name__ in (
            "DistributedDataParallel",
            "DataParallel",
            "OptimizedModule",
        ):
            return _inner(inner)
    return model


def _own_loss(output: Any) -> Any:
    loss = _part(output, "loss", None)
    if loss is None:
        raise UsageError(
            f"the model returned {_told(output)} without a loss: give loss=, a function of (output, target), "
            "or batches with the labels from which the model computes its own"
        )
    return loss


def _part(output: Any, name: str, default: Any) -> Any:
    if isinstance(output, Mapping):
        return output.get(name, default)
    found = getattr(output, name, default)
    return default if found is None else found


def _told(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    return f"{value!r}, a {type(value).__name__}" if isinstance(value, (int, float)) else f"a {type(value).__name__}"
