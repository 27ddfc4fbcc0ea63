"""What is kept of each optimizer of a run, and what is read of it when an update is due."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .names import MOST_LAYERS, Named, evenly, layers, named, shown
from .readings import fetch, nonfinite, norms, numbers, sample, values_of
from .schedule import Schedule

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from loopkit import Models

_MOST_GROUPS = 16
_TRIES = 8
"""How often names are looked for: before the first closure runs, no model has been seen."""


@dataclass(frozen=True)
class Clip:
    """A clip that was seen in an update that is due.

    Attributes:
        covered: `id` of what was given; empty for a generator, of which it is not known.
        limit: the norm or value allowed.
        total: the norm before, 0-dim on the device; None for a clip by value.
    """

    covered: frozenset[int]
    limit: float
    total: Tensor | None

    def covers(self, parameter: Tensor) -> bool:
        """Whether it clipped this one."""
        return not self.covered or id(parameter) in self.covered


class Watched:
    """One optimizer: its schedules, the loss of its interval, and names for its parameters.

    Args:
        optimizer: held weakly.
        number: 0 for the first of a run, whose tags have no suffix.
        every, ratios_every, histograms_every: updates between two readings; None for none.
        parameters: how many have histograms and ratios.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        number: int,
        every: int,
        ratios_every: int | None,
        histograms_every: int | None,
        parameters: int,
    ) -> None:
        early = (1, 3, 10, 30, 100, 300)
        self.optimizer = weakref.ref(optimizer)
        self.number = number
        self.scalars = Schedule(every)
        self.ratios = Schedule(ratios_every, early)
        self.histograms = Schedule(histograms_every, early)
        self.loss: Tensor | None = None
        self.losses = 0
        self._limit = parameters
        self._key: tuple[int, ...] = ()
        self._tries = 0
        self._names: list[tuple[str, str, int]] = []  # name, layer, and which of the optimizer's parameters
        self._shown: frozenset[str] = frozenset()
        self._before: list[tuple[str, Tensor]] = []

    def tag(self, name: str) -> str:
        """A tag of this optimizer: `train/lr`, of the second one `train/lr/optimizer1`."""
        return f"{name}/optimizer{self.number}" if self.number else name

    def due(self, update: int) -> bool:
        """Whether anything is read of it at this update."""
        return self.scalars.due(update) or self.ratios.due(update) or self.histograms.due(update)

    def add_loss(self, total: Tensor | None, count: int) -> None:
        """The losses of one more update, on the device."""
        if total is not None:
            self.loss = total if self.loss is None else self.loss + total.to(self.loss.device)
            self.losses += count

    # -- parameters ----------------------------------------------------------------------------------------

    def named(self, models: Models) -> list[Named]:
        """Its parameters in order; names are made anew when it got others."""
        optimizer = self.optimizer()
        own = [each for group in optimizer.param_groups for each in group["params"]] if optimizer else []
        key = tuple(map(id, own))
        if optimizer is not None and (key != self._key or self._tries):
            at = {id(each): i for i, each in enumerate(own)}
            found = named(optimizer, models)
            self._tries = _TRIES if key != self._key else self._tries - 1
            if all(each.known for each in found):
                self._tries = 0
            self._key = key
            self._names = [(each.name, each.layer, at[id(each.tensor)]) for each in found]
            self._shown = frozenset(each.name for each in shown(found, self._limit))
        return [Named(name, layer, own[i]) for name, layer, i in self._names]

    def shown(self, models: Models) -> list[Named]:
        """Those with histograms and ratios."""
        every = self.named(models)
        return [each for each in every if each.name in self._shown]

    def remember_weights(self, models: Models) -> None:
        """Keep a sample of each weight that is shown, before a step whose ratio is due."""
        self._before = _samples(self.shown(models), weights=True)

    def read_ratios(self, models: Models) -> list[tuple[str, float]]:
        """The norm of each weight's change over that of the weight before. One transfer."""
        kept, self._before = dict(self._before), []
        pairs = [(name, kept[name], now) for name, now in _samples(self.shown(models), weights=True) if name in kept]
        pairs = [pair for pair in pairs if pair[1].shape == pair[2].shape and pair[1].device == pair[2].device]
        olds = [old for _, old, _ in pairs]
        moved = [now - old for _, old, now in pairs]
        read = numbers([*norms(moved), *norms(olds)])
        ratios = []
        for (name, _, _), change, size in zip(pairs, read[: len(pairs)], read[len(pairs) :], strict=True):
            if size > 0:
                ratios.append((f"update_ratio/{name}", change / size))
        return ratios

    def read_samples(self, models: Models) -> tuple[list[tuple[str, Tensor]], list[tuple[str, Tensor]]]:
        """Samples of gradients and of weights, on the host, by tag. One transfer."""
        every = self.shown(models)
        grads, weights = _samples(every, weights=False), _samples(every, weights=True)
        values = fetch([tensor for _, tensor in (*grads, *weights)])
        tags = [f"grads/{name}" for name, _ in grads] + [f"weights/{name}" for name, _ in weights]
        found = list(zip(tags, values, strict=True))
        return found[: len(grads)], found[len(grads) :]

    # -- scalars -------------------------------------------------------------------------------------------

    def read_scalars(self, models: Models, clips: Sequence[Clip], scale: Tensor | None) -> Scalars:
        """Learning rates, gradient norms and the sum of losses. One transfer, a second where a norm is not finite.

        Args:
            models: where names come from.
            clips: those seen since the gradients were made.
            scale: what the gradients are still multiplied with.
        """
        grads = ((each, values_of(each.tensor.grad)) for each in self.named(models))
        read = [(each, grad) for each, grad in grads if grad is not None]
        optimizer = self.optimizer()
        groups = optimizer.param_groups[:_MOST_GROUPS] if optimizer else []
        totals = [each.total for each in clips if each.total is not None]
        rates = [rate for group in groups if isinstance(rate := group.get("lr"), Tensor)]
        sums = norms([grad for _, grad in read])
        wanted = [*sums, *rates, *totals, *([self.loss] if self.loss is not None else []), *_some(scale)]
        values = iter(numbers(wanted))
        sizes = [next(values) for _ in sums]
        found = Scalars(lr=[next(values) if isinstance(g.get("lr"), Tensor) else g.get("lr") for g in groups])
        norm_of = {id(each): next(values) for each in totals}
        if self.loss is not None:
            found.loss = next(values) / self.losses
        if scale is not None:
            divisor = next(values)
            sizes = [size / divisor for size in sizes]
        found.nonfinite = nonfinite([v for (_, v), size in zip(read, sizes, strict=True) if not math.isfinite(size)])
        found.norms(self.named(models), [each for each, _ in read], sizes, clips, norm_of)
        self.loss, self.losses = None, 0
        return found


@dataclass
class Scalars:
    """The numbers of one reading, on the host.

    Attributes:
        lr: of each group.
        loss: the mean of the losses of the interval, as they were sent backward.
        before, after: the norm of all gradients before and after clipping; `before` is None after a clip by value,
            `after` is None where nothing was clipped.
        layers: the norm before clipping of each layer.
        nonfinite: values that are NaN or infinite.
    """

    lr: list[Any]
    loss: float | None = None
    before: float | None = None
    after: float | None = None
    layers: dict[str, float] | None = None
    nonfinite: int = 0

    def norms(
        self,
        every: Sequence[Named],
        read: Sequence[Named],
        sizes: Sequence[float],
        clips: Sequence[Clip],
        norm_of: dict[int, float],
    ) -> None:
        """Work out the norms before clipping from those after it, by the factor of each parameter's last clip."""
        clip_of = [next((clip for clip in reversed(clips) if clip.covers(each.tensor)), None) for each in read]
        sure = True
        unclipped = []
        for size, clip in zip(sizes, clip_of, strict=True):
            factor = 1.0
            if clip is not None and clip.total is not None:
                factor = min(1.0, clip.limit / (norm_of[id(clip.total)] + 1e-6))
            sure = sure and (clip is None or clip.total is not None)
            unclipped.append(size / factor if factor else math.nan)
        if not read:
            return
        if any(clip_of):
            self.after = _root(sizes)
        self.before = _root(unclipped) if sure else None
        used = [each for each in clip_of if each is not None]
        if sure and not math.isfinite(self.before or 0.0) and all(each is used[0] for each in used) and used:
            self.before = norm_of[id(used[0].total)]
        by_layer = _by_layer(read, unclipped)
        order = list(layers(every))
        self.layers = {
            f"{order.index(name):02}_{name}": _root(by_layer[name])
            for name in evenly(order, MOST_LAYERS)
            if name in by_layer
        }


def _by_layer(read: Sequence[Named], sizes: Sequence[float]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for each, size in zip(read, sizes, strict=True):
        found.setdefault(each.layer, []).append(size)
    return found


def _root(sizes: Sequence[float]) -> float:
    return math.sqrt(sum(size * size for size in sizes))


def _some(tensor: Tensor | None) -> list[Tensor]:
    return [] if tensor is None else [tensor]


def _samples(parameters: Sequence[Named], *, weights: bool) -> list[tuple[str, Tensor]]:
    found = []
    with torch.no_grad():
        for each in parameters:
            values = values_of(each.tensor if weights else each.tensor.grad)
            if values is not None:
                found.append((each.name, sample(values)))
    return found
