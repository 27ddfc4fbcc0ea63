"""A few values of a few parameters, as they were when the last forward ended.

A write through `.data` is hidden from autograd's version counters, so backward goes through weights that the forward
never saw, without an error. Samples are taken at the end of the outermost forward, because modules may renormalise
their weights inside it, on the rare updates whose graphs are walked. They are compared, on the device, when a
backward goes through a graph that had used the parameter by then; the answer is read when a check gets to see it.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch

from loopkit.holdings import Owner
from loopkit.ledger import Ledger, sequence_number
from loopkit.unseen import unseen

if TYPE_CHECKING:
    from torch import Tensor

    from loopkit.graphwalk import Walk

_TENSORS = 16
"""Parameters of each optimizer of which a sample is kept."""
_MOST = 64
"""Parameters of all optimizers together."""
_ELEMENTS = 64
"""Elements of one of them, evenly spread."""
_FORWARDS = 32
"""Forwards of one update after which samples are taken."""


class Kept(NamedTuple):
    """A sample of one parameter, with the version and the autograd sequence number it had."""

    owner: int
    parameter: weakref.ref[Tensor]
    version: int
    made_at: int
    sample: Tensor


class Weights:
    """Remembers samples of parameters from the end of a forward until a step, a newer forward, or `forget`."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._kept: list[Kept] = []
        self._forwards = 0

    def remember(self) -> None:
        """A forward with gradients ended: keep samples of what the parameters are now."""
        self._forwards += 1
        self._kept.clear()
        if self._forwards > _FORWARDS:
            return
        made_at = sequence_number()
        device: torch.device | None = None
        for owner in self._ledger.owners():
            parameters = [each for each in owner.parameters() if can_be_sampled(each)]
            for parameter in parameters[:: max(1, -(-len(parameters) // _TENSORS))]:
                device = device or parameter.device
                if (
                    parameter.device == device and len(self._kept) < _MOST
                ):  # one device, so that one transfer brings all answers
                    kept = Kept(
                        owner.number, weakref.ref(parameter), parameter._version, made_at, sample_of(parameter)
                    )
                    self._kept.append(kept)

    def stepped(self, owner: Owner) -> list[Kept]:
        """A step may have moved this optimizer's parameters; the samples of them that are dropped."""
        dropped = [each for each in self._kept if each.owner == owner.number]
        if dropped:
            self._kept = [each for each in self._kept if each.owner != owner.number]
        return dropped

    def forget(self) -> None:
        """Keep nothing."""
        self._kept.clear()
        self._forwards = 0

    def changed(self, walk: Walk) -> list[tuple[int, Tensor]]:
        """For each sampled parameter that the walked graph had used by then: whether it has other values now.

        Of those alone that nothing visible has changed: about others autograd itself raises an error.
        """
        with unseen():
            return list(self._differences(walk))

    def _differences(self, walk: Walk) -> Iterator[tuple[int, Tensor]]:
        for each in self._kept:
            parameter = each.parameter()
            leaf = walk.leaves.get(id(parameter)) if parameter is not None else None
            if parameter is None or leaf is None or leaf.oldest >= each.made_at:
                continue
            if parameter._version != each.version or not can_be_sampled(parameter):
                continue
            now = sample_of(parameter)
            if now.shape == each.sample.shape and (now.device, now.dtype) == (each.sample.device, each.sample.dtype):
                if now.device.type == "cpu" and torch.equal(now, each.sample):
                    continue  # one operation where `differ` takes six, and nothing has to be told
                yield each.owner, differ(now, each.sample)


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
