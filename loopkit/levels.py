"""Losses of a few updates beside what a model would lose that has learned nothing but how frequent each target is.

Sampled evenly over a run, 16 to 32 times: the loss that is sent backward, and what its node has saved of the targets.
Both are kept on their device and read together when somebody asks. A model that ignores its inputs can do no better
than the frequencies of the classes (cross-entropy), or the mean (squared error): that is the chance level. It is that
of the very batches whose losses were sampled, so it has no noise of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from loopkit.curvefit import slope
from loopkit.unseen import unseen

if TYPE_CHECKING:
    from loopkit.callsite import Site
    from loopkit.lossgraph import LossGraph

_MOST = 32
"""Samples that are kept; then every other one goes, and half as many are taken."""
_CLASSES, _TARGETS = 256, 1 << 18
"""Of more classes, or more targets at once, nothing is counted."""
_KEPT = 4096
"""Up to so many targets are kept and counted when somebody asks; more are counted at once."""
_FEWEST = 8  # samples of the second half
_LEAST = 1e-6  # a chance level below it is that of targets that are all alike
_SQUARES = "MseLoss"
_BINARY = ("BinaryCrossEntropy", "BinaryCrossEntropyWithLogits")


class Level(NamedTuple):
    """One sampled loss.

    Args:
        update: which update of the run it belongs to, from 0.
        loss: without constant factors.
        chance: what a model would lose on this batch that knows the targets of all samples, and not its input; None
            where that is not known.
        kind: the operation that made the loss.
        counts: targets of each class in the batch; of a squared error: how many, their sum, that of their squares.
    """

    update: int
    loss: float
    chance: float | None
    kind: str
    counts: tuple[float, ...]


class AtChance(NamedTuple):
    """The second half of a run, in which the loss was at the chance level.

    Args:
        loss, chance: means over what was sampled.
        since: the first update of those.
        samples: how many.
        kind: the operation that made the losses.
    """

    loss: float
    chance: float
    since: int
    samples: int
    kind: str


class _Targets(NamedTuple):
    """Of one batch; `classes` is 0 where they are numbers or probabilities."""

    kind: str
    values: Tensor
    classes: int

    def counts(self) -> Tensor:
        """What is needed of them to know the chance level."""
        if self.classes:
            return (self.values[:, None] == torch.arange(self.classes, device=self.values.device)).sum(0)
        flat = self.values.reshape(-1)
        flat = flat.double() if flat.device.type != "mps" else flat
        if self.kind in _BINARY:
            return torch.stack([(1 - flat).sum(), flat.sum()])
        return torch.stack([torch.ones_like(flat).sum(), flat.sum(), (flat * flat).sum()])


class _Sample(NamedTuple):
    update: int
    loss: Tensor
    factors: tuple[tuple[Any, bool], ...]
    kind: str
    targets: _Targets | Tensor | None
    """Or their counts."""


class Levels:
    """Samples losses.

    Attributes:
        due: updates after which the next one is sampled.
        alone: no update that was sampled had a second optimizer.
        site: the latest forward of a training step that was noted.
    """

    def __init__(self) -> None:
        self.due = 0
        self.alone = True
        self.site: Site | None = None
        self._stride = 1
        self._samples: list[_Sample] = []

    def sample(self, root: Any, update: int, graph: LossGraph, owners: int) -> None:
        """A loss is sent backward in an update that is sampled."""
        self.due = update + self._stride
        self.alone &= owners <= 1
        if type(root) is not Tensor or root.numel() != 1 or root.is_meta or not root.is_floating_point():
            return
        node, factors, scaled = graph.behind(root)
        if scaled:
            return
        with unseen(), torch.no_grad():
            kind = node.name().partition("Backward")[0] if node is not None else ""
            targets = None if node is None or graph.is_hooked(node) else _targets(node, kind)
            kept: _Targets | Tensor | None = targets
            if targets is not None:
                few = targets.values.numel() <= _KEPT
                kept = targets._replace(values=targets.values.clone()) if few else targets.counts()
            self._samples.append(_Sample(update, root.detach().reshape(()).clone(), tuple(factors), kind, kept))
        if len(self._samples) >= _MOST:
            del self._samples[1::2]
            self._stride *= 2
            self.due = self._samples[-1].update + self._stride

    def read(self) -> list[Level]:
        """The samples so far, in order; waits for the device."""
        if not self._samples:
            return []
        with unseen(), torch.no_grad():
            losses = [sample.loss.float().cpu() for sample in self._samples]
            held = [each.targets for each in self._samples]
            counts = [each.counts() if isinstance(each, _Targets) else each for each in held]
            rows = [None if each is None else tuple(each.tolist()) for each in counts]
            values = [
                float(loss) / _product(sample.factors) for sample, loss in zip(self._samples, losses, strict=True)
            ]
        known = [row for row in rows if row is not None]
        pooled = [math.fsum(column) for column in zip(*known, strict=True)] if len({*map(len, known)}) == 1 else []
        chances = [
            _chance(each.kind, row, pooled) if row is not None and pooled else None
            for each, row in zip(self._samples, rows, strict=True)
        ]
        return [
            Level(sample.update, value, chance, sample.kind, row or ())
            for sample, value, chance, row in zip(self._samples, values, chances, rows, strict=True)
        ]


def at_chance(levels: Sequence[Level], updates: int, share: float) -> AtChance | None:
    """Whether the second half of a run of `updates` stayed at the chance level, and did not fall.

    Batch by batch, so that a batch with rare classes is no worse than others. At the chance level is a mean excess of
    between `-share` and five times as much of it, in the last quarter too: further above, other things are wrong. Two
    standard errors less must not be much lower either: of few small batches nothing is said.
    """
    half = [each for each in levels if each.update >= updates / 2]
    if len(half) < _FEWEST or any(each.chance is None or each.kind != half[0].kind for each in half):
        return None
    over = [(float(each.update), each.loss - (each.chance or 0.0)) for each in half]
    chance = fmean(each.chance or 0.0 for each in half)
    if not chance > _LEAST or slope(over).falls:
        return None
    for part in (over, over[len(over) // 2 :]):
        if not -share <= fmean(value for _, value in part) / chance <= 5 * share:
            return None
    excess = [value for _, value in over]
    if fmean(excess) - 2 * stdev(excess) / math.sqrt(len(excess)) < -2.5 * share * chance:
        return None
    return AtChance(chance + fmean(excess), chance, half[0].update, len(half), half[0].kind)


def _targets(node: Any, kind: str) -> _Targets | None:
    """A batch's targets, as the node of its loss has saved them; None where they say no chance level."""
    if getattr(node, "_saved_reduction", None) != 1:
        return None
    target: Any = None
    with suppress(RuntimeError):  # an earlier backward has freed it: this one is about to fail
        target = getattr(node, "_saved_target", None)
    if type(target) is not Tensor or not 0 < target.numel() <= _TARGETS or target.is_meta:
        return None
    if kind == "NllLoss":
        given = node._saved_self
        if target.dim() != 1 or given.dim() != 2 or given.shape[1] > _CLASSES or node._saved_weight is not None:
            return None
        return None if _is_sequence(node) else _Targets(kind, target, given.shape[1])
    if target.numel() != len(target) or getattr(node, "_saved_weight", None) is not None:
        return None
    if kind == _SQUARES or (kind in _BINARY and getattr(node, "_saved_pos_weight", None) is None):
        return _Targets(kind, target, 0)
    return None


def _is_sequence(node: Any) -> bool:
    """Whether rows of logits were cut out of sequences: next to their neighbours, frequencies are no chance level."""
    for _ in range(3):
        inputs = node.next_functions
        node = inputs[0][0] if inputs else None
        if node is None:
            return False
        sizes = getattr(node, "_saved_self_sym_sizes", ())
        if len(sizes) > 2:
            return True
    return False


def _chance(kind: str, row: Sequence[float], pooled: Sequence[float]) -> float | None:
    """The loss on one batch of a model that knows what is pooled of all, and nothing else."""
    if kind == _SQUARES:
        mean = pooled[1] / pooled[0]
        return row[2] / row[0] - 2 * mean * row[1] / row[0] + mean * mean
    total, here = math.fsum(pooled), math.fsum(row)
    if total <= 0 or here <= 0 or min(*row, *pooled) < 0 or any(row[n] and not pooled[n] for n in range(len(row))):
        return None  # targets that are no probabilities make no counts
    return (
        -math.fsum(count * math.log(of_all / total) for count, of_all in zip(row, pooled, strict=True) if count)
        / here
    )


def _product(factors: Sequence[tuple[Any, bool]]) -> float:
    product = 1.0
    for value, inverse in factors:
        number = float(value)
        product = product / number if inverse and number else product * number
    return product or math.nan
