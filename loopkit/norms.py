"""Batch normalisations: how large their batches are, and whether frozen ones follow the data."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from loopkit.modal import batches_seen, is_norm
from loopkit.modereading import FrozenNorm
from loopkit.unseen import unseen

if TYPE_CHECKING:
    from torch import Tensor

    from loopkit.graphwalk import Walk

_LAYERS = 16
"""Frozen layers of which the statistics are kept, to see how far they move."""
_NODES = ("NativeBatchNormBackward", "CudnnBatchNormBackward", "MiopenBatchNormBackward")


def sizes(walk: Walk) -> Iterator[tuple[int, int]]:
    """For each batch normalisation in a graph that used its batch's statistics: batch size, and values a channel."""
    for node in walk.nodes:
        at: Any = node
        if at.name().startswith(_NODES) and getattr(at, "_saved_training", True):
            shape = list(at._input_metadata[0].shape)
            if len(shape) > 1 and all(isinstance(each, int) for each in shape):
                channels = max(1, shape[1])
                yield shape[0], torch.Size(shape).numel() // channels


def is_blank(layer: nn.Module) -> bool:
    """Whether no batch has ever changed the statistics. Reads the device: to confirm a suspicion."""
    count = getattr(layer, "num_batches_tracked", None)
    if not isinstance(count, torch.Tensor) or count.is_meta:
        return False
    with unseen():
        return not bool(count)


class _Norm:
    """A frozen layer: what its statistics were at the first look."""

    __slots__ = ("layer", "looks", "mean", "name", "steps", "variance", "version")

    def __init__(self, layer: _BatchNorm, name: str, steps: int) -> None:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        self.layer = weakref.ref(layer)
        self.name = name
        self.steps = steps
        self.looks = 1
        self.version = batches_seen(layer)
        with unseen(), torch.no_grad():
            self.mean, self.variance = layer.running_mean.detach().clone(), layer.running_var.detach().clone()

    def moved(self) -> tuple[bool, Tensor] | None:
        """Whether the statistics changed; how far, as three numbers that are still on their device."""
        layer = self.layer()
        if layer is None or layer.running_mean is None or layer.running_var is None:
            return None
        spread = self.variance.clamp(min=1e-12)
        shift = ((layer.running_mean - self.mean).abs() / spread.sqrt()).median()
        ratio = (layer.running_var.clamp(min=1e-12) / spread).log().abs().median().exp()
        trained = (self.mean != 0).any() | (self.variance != 1).any()
        return batches_seen(layer) != self.version, torch.stack([shift, ratio, trained.to(shift.dtype)])


class Norms:
    """Follows frozen batch normalisations in training mode."""

    def __init__(self) -> None:
        self._known: dict[int, _Norm] = {}
        self._thawed: set[int] = set()

    def look(self, root: nn.Module, steps: int) -> None:
        """An outermost module is trained."""
        for name, layer in root.named_modules(prefix=type(root).__name__):
            if not isinstance(layer, _BatchNorm) or not is_norm(layer):
                continue
            parameters = list(layer.parameters())
            if not parameters or any(each.requires_grad for each in parameters):
                self._thawed.add(id(layer))  # an address used again errs to silence
                self._known.pop(id(layer), None)
            elif layer.training and id(layer) not in self._thawed:
                self._met(layer, name, steps)

    def _met(self, layer: _BatchNorm, name: str, steps: int) -> None:
        known = self._known.get(id(layer))
        if known is not None and known.layer() is layer:
            known.looks += steps > known.steps
            known.steps = max(steps, known.steps)
        elif len(self._known) < _LAYERS:
            self._known[id(layer)] = _Norm(layer, name, steps)

    def told(self) -> list[FrozenNorm]:
        """What was seen so far. Reads the device, once."""
        with unseen(), torch.no_grad():
            read = [(each, moved) for each in self._known.values() if (moved := each.moved()) is not None]
            if not read:
                return []
            home = read[0][1][1].device
            values = torch.stack([each.to(home, torch.float32) for _, (_, each) in read]).tolist()
        return [
            FrozenNorm(each.name, each.looks, moved, bool(trained), shift, ratio)
            for (each, (moved, _)), (shift, ratio, trained) in zip(read, values, strict=True)
        ]
