"""Copies of a few values of a tensor, to be compared on its device with what they are later."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from loopkit.unseen import unseen

if TYPE_CHECKING:
    from torch import Tensor

_ELEMENTS = 64
"""Elements of one tensor, evenly spread."""


def differ(one: Tensor, other: Tensor) -> Tensor:
    """Whether two samples differ, as a tensor on their device; NaN equals NaN."""
    with unseen():
        return ((one != other) & ~(one.isnan() & other.isnan())).any()


def sample_of(tensor: Tensor) -> Tensor:
    """A copy of some elements, evenly spread."""
    with unseen():
        flat = tensor.detach().view(-1)
        return flat[:: max(1, flat.numel() // _ELEMENTS)][: 2 * _ELEMENTS].clone()


def can_be_sampled(parameter: Tensor) -> bool:
    """Whether its values are its own: no subclass (sharded, quantised, fake), and nobody else's to write to."""
    return (
        type(parameter) in (torch.nn.Parameter, torch.Tensor)
        and parameter.layout is torch.strided
        and parameter.is_floating_point()
        and parameter.is_contiguous()
        and parameter.numel() > 0
        and _is_at_hand(parameter)
    )


def _is_at_hand(parameter: Tensor) -> bool:
    """Whether this process alone writes to it, and may read it now."""
    if parameter.device.type == "cuda":  # where all tensors say that they are shared
        return not torch.cuda.is_current_stream_capturing()
    # In shared memory other processes train it too (Hogwild).
    # `Tensor.is_shared` would go through a storage that it deprecates, at three times the cost.
    return parameter.device.type == "cpu" and not parameter.untyped_storage().is_shared()
