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

from loopkit.efforts import Effort
from loopkit.holdings import Owner
from loopkit.ledger import Ledger, sequence_number
from loopkit.samples import can_be_sampled, differ, sample_of
from loopkit.unseen import unseen

if TYPE_CHECKING:
    from torch import Tensor

    from loopkit.graphwalk import Walk

_TENSORS = 16
"""Parameters of each optimizer of which a sample is kept."""
_MOST = 64
"""Parameters of all optimizers together."""
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
        """A step may have moved this optimizer's parameters: note what it did; the samples that are dropped."""
        dropped = [each for each in self._kept if each.owner == owner.number]
        own = [(parameter, each.sample) for each in dropped if (parameter := each.parameter()) is not None]
        if owner.effort is None:
            owner.effort = Effort()
        owner.effort.stepped(owner, own)
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
