"""Batch normalisations: how large their batches are, and whether frozen ones follow the data."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from loopkit.modal import batches_seen, is_norm
from loopkit.modereading import FrozenNorm, Recomputed
from loopkit.unseen import unseen

if TYPE_CHECKING:
    from torch import Tensor

    from loopkit.callsite import Site
    from loopkit.graphwalk import Walk
    from loopkit.recorder import Recorder

_LAYERS = 16
"""Frozen layers of which the statistics are kept, to see how far they move."""
_NODES = ("NativeBatchNormBackward", "CudnnBatchNormBackward", "MiopenBatchNormBackward")


def sizes(walk: Walk, root: nn.Module) -> Iterator[tuple[int, int]]:
    """For each batch normalisation of `root` in a graph that used its batch's statistics: batch size, and values a
    channel.
    """
    # An instance normalisation makes such nodes too, with a batch of one and a channel for each of every sample.
    features = {layer.num_features for _, layer in _norms(root) if layer.training}
    if not features:
        return
    for node in walk.nodes:
        at: Any = node
        if at.name().startswith(_NODES) and getattr(at, "_saved_training", True):
            shape = list(at._input_metadata[0].shape)
            if len(shape) > 1 and shape[1] in features and all(isinstance(each, int) for each in shape):
                yield shape[0], torch.Size(shape).numel() // shape[1]


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

    def __init__(self, layer: _BatchNorm, name: str) -> None:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        self.layer = weakref.ref(layer)
        self.name = name
        self.steps = -1
        self.looks = 0
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

    def meet(self, root: nn.Module) -> None:
        """An outermost module in training mode is about to be called: what its frozen layers are like before."""
        for name, layer in _norms(root):
            if id(layer) not in self._thawed and layer.training and _is_frozen(layer):
                known = self._known.get(id(layer))
                if (known is None or known.layer() is not layer) and len(self._known) < _LAYERS:
                    self._known[id(layer)] = _Norm(layer, name)

    def look(self, root: nn.Module, steps: int) -> None:
        """It is trained, after so many steps."""
        for _, layer in _norms(root):
            known = self._known.get(id(layer))
            if not _is_frozen(layer):
                self._thawed.add(id(layer))  # an address used again errs to silence
                self._known.pop(id(layer), None)
            elif known is not None and layer.training and steps > known.steps:
                known.looks += 1
                known.steps = steps

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


class Recounts:
    """Looks whether a backward moves running statistics: where it computes a forward anew."""

    def __init__(self) -> None:
        self._before: _Count | None = None
        self._told: list[Recomputed] = []

    def before(self, norms: Sequence[tuple[str, nn.Module]], site: Site, recorder: Recorder) -> None:
        """A backward begins that trains these layers."""
        held = [(name, weakref.ref(layer), batches_seen(layer)) for name, layer in norms]
        self._before = _Count(held, site, recorder.steps, recorder.forwards + recorder.evaluations)

    def after(self, recorder: Recorder) -> None:
        """An optimizer stepped, the first since then."""
        count, self._before = self._before, None
        # Another forward since would have moved them as well.
        if count is None or count.calls != recorder.forwards + recorder.evaluations:
            return
        moved = [name for name, known, seen in count.norms if (layer := known()) and batches_seen(layer) > seen]
        if moved and len(self._told) < _LAYERS:
            self._told.append(Recomputed(tuple(moved), count.site, count.steps))

    def forget(self) -> None:
        """No step came in that update."""
        self._before = None

    def told(self) -> list[Recomputed]:
        """What was seen since this was last asked."""
        told, self._told = self._told, []
        return told


class _Count(NamedTuple):
    """Batch normalisations before a backward: names, layers, how often they had moved; and the calls of models."""

    norms: Sequence[tuple[str, Callable[[], nn.Module | None], int]]
    site: Site
    steps: int
    calls: int


def _norms(root: nn.Module) -> Iterator[tuple[str, _BatchNorm]]:
    for name, layer in root.named_modules(prefix=type(root).__name__):
        if isinstance(layer, _BatchNorm) and is_norm(layer):
            yield name, layer


def _is_frozen(layer: nn.Module) -> bool:
    parameters = list(layer.parameters())
    return bool(parameters) and not any(each.requires_grad for each in parameters)
