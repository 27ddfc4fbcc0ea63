"""How much of a window a micro-batch is: the targets its loss averages over, counted where they are.

A mean over a window is the sum of the means over its micro-batches, each times its share of what was averaged. The
count is tensor arithmetic on the targets' own device: nothing is read.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from loopkit.errors import UsageError

Weight = float | Tensor
"""A number of samples or targets; a tensor of one element where it was counted on a device."""

_IGNORED = -100
_NAMES = ("labels", "label", "targets", "target")
_SHIFTING = ("ForCausalLM", "LMHeadModel")
_FUNCTIONS = ("cross_entropy", "nll_loss")


class Counting(NamedTuple):
    """What a loss averages over.

    Args:
        ignored: the class that does not count; None: every sample counts alike, whatever its target.
        classes: what a target of each class weighs, or None.
        shifted: a causal model predicts the next token, so the first label of a sequence is nobody's target.
        summed: the loss is a sum: its parts are added up as they are.
    """

    ignored: int | None = _IGNORED
    classes: Tensor | None = None
    shifted: bool = False
    summed: bool = False


def counting_of(loss: Any, model: nn.Module) -> Counting:
    """What this loss, or the model's own where it is None, averages over, as far as its attributes tell."""
    if loss is None:
        return Counting(shifted=type(model).__name__.endswith(_SHIFTING))
    settings, function = loss, loss
    if isinstance(loss, functools.partial):
        settings, function = _Keywords(loss.keywords), loss.func
    name = getattr(function, "__name__", "")
    of_torch = type(loss).__module__ == nn.modules.loss.__name__ or getattr(nn.functional, name, None) is function
    ignored = getattr(settings, "ignore_index", _IGNORED)
    if of_torch and not hasattr(loss, "ignore_index") and name not in _FUNCTIONS:
        return Counting(None, summed=getattr(settings, "reduction", "mean") == "sum")
    classes = getattr(settings, "weight", None) if of_torch else None
    return Counting(ignored, classes, summed=getattr(settings, "reduction", "mean") == "sum")


class _Keywords:
    """The keywords of a partial as attributes."""

    def __init__(self, keywords: Mapping[str, Any]) -> None:
        vars(self).update(keywords)


def target_of(batch: Any) -> Any:
    """The target of a batch: its "labels" or "target", or the last of a tuple; None where it has none."""
    if isinstance(batch, Mapping):
        return next((batch[name] for name in _NAMES if name in batch), None)
    return batch[-1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None


def parted(batch: Any) -> tuple[Any, Any]:
    """Input and target of a batch whose loss is a function of the output and the target.

    Raises:
        UsageError: it does not consist of these two.
    """
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    if isinstance(batch, Mapping):
        name = next((name for name in _NAMES if name in batch), None)
        if name is not None:
            return {key: value for key, value in batch.items() if key != name}, batch[name]
    raise UsageError(
        f"with loss= a batch is (input, target), or a dict with {' or '.join(_NAMES)}; this one is {_told(batch)}: "
        "change the loader's collate_fn, or say with step= how a batch becomes a loss"
    )


def weigh(batch: Any, counting: Counting) -> Weight:
    """How many targets of this batch count; its number of samples where none is ignored."""
    target = target_of(batch)
    if counting.ignored is None or not isinstance(target, Tensor) or _is_no_class(target):
        return samples(batch)
    if counting.shifted and target.ndim > 1:
        target = target[..., 1:]
    valid = (target.long() if target.dtype is torch.uint8 else target) != counting.ignored
    if counting.classes is None:
        return valid.sum()
    known = target.long().clamp(0, len(counting.classes) - 1)  # an ignored class may be out of range
    return torch.where(valid, counting.classes[known], 0).sum()


def samples(batch: Any) -> int:
    """How many samples a batch holds: the first dimension of its target, or of the first tensor in it.

    Raises:
        UsageError: it holds no tensor that has one.
    """
    for part in (target_of(batch), *_parts(batch)):
        if isinstance(part, Tensor) and part.ndim:
            return len(part)
    raise UsageError(
        f"cannot tell how many samples a batch holds: {_told(batch)} has no tensor with a first dimension; "
        "say it with weight=, a function of the batch"
    )


def _is_no_class(target: Tensor) -> bool:
    return target.is_floating_point() or target.is_complex() or target.dtype is torch.bool


def _parts(batch: Any) -> list[Any]:
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, (tuple, list)):
        return [part for each in batch for part in _parts(each)]
    return [batch]


def _told(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return f"a {type(batch).__name__} with {', '.join(map(str, batch)) or 'no keys'}"
    if isinstance(batch, (tuple, list)):
        return f"a {type(batch).__name__} of {len(batch)}"
    return f"a {type(batch).__name__}"
