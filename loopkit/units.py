"""Which units of activations never fire, or never leave their flat ends: read from graphs that are walked anyway.

ReLU, tanh and sigmoid save what they returned. Of each a row of flags is kept, one a unit, for the last few looks; it
stays on the device until a check asks.
"""

from __future__ import annotations

import weakref
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from loopkit.unseen import unseen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from loopkit.lossgraph import Node

_KINDS = {"ReluBackward0": "ReLU", "TanhBackward0": "tanh", "SigmoidBackward0": "sigmoid"}
_LEAF = "torch::autograd::AccumulateGrad"
_LAYERS = 8
"""Activations looked at in one graph."""
_LOOKS = 3
_FEWEST, _MOST = 8, 8192
"""Units of a layer that is looked at."""
_FLAT = 0.95
"""A tanh beyond it, or a sigmoid as far from its middle, is in a flat end."""
_NEAR = 4  # nodes between an activation and the weight before it
_Seen = tuple[int, int, "Tensor", "Callable[[], Tensor | None]"]  # updates, values a unit, flags, weight
_Key = tuple[int, int, str, int]  # which of how many activations of a graph, its kind, its units


@dataclass(frozen=True, slots=True)
class LayerUnits:
    """The units of one activation at the last looks.

    Args:
        kind: "ReLU", "tanh" or "sigmoid".
        position: which activation of the model it is, from 1.
        weight: the parameter just before it, weakly; None where that is not known.
        units: how many it has.
        idle: of those, how many never fired (ReLU) or never left their flat ends at any of the looks.
        samples: values each unit was seen with, over the looks.
        first, last: how many updates there had been at the first and at the last of the looks.
    """

    kind: str
    position: int
    weight: Callable[[], Tensor | None]
    units: int
    idle: int
    samples: int
    first: int
    last: int


class Units:
    """Looks at activations. An instrument of the run, fed where graphs are walked."""

    def __init__(self) -> None:
        self._seen: dict[_Key, deque[_Seen]] = {}

    def walked(self, nodes: Iterable[Node], is_hooked: Callable[[Node], bool], updates: int) -> None:
        """A graph was walked, in the update after `updates` others."""
        found = [node for node in nodes if node.name() in _KINDS and not is_hooked(node)]
        if not found or len(found) > 4 * _LAYERS:
            return
        found.sort(key=lambda node: int(node._sequence_nr()))
        with unseen():
            for at, node in enumerate(found[:_LAYERS]):
                self._look(node, at, len(found), updates)

    def layers(self) -> list[LayerUnits]:
        """What the last looks saw; of activations that were looked at often enough. Waits for the device."""
        enough = [(key, looks) for key, looks in self._seen.items() if len(looks) == _LOOKS]
        with unseen():
            lively = [torch.stack([flags for _, _, flags, _ in looks]).any(0).sum() for _, looks in enough]
            counts = torch.stack([each.cpu() for each in lively]).tolist() if lively else []
        return [_told(key, looks, count) for (key, looks), count in zip(enough, counts, strict=True)]

    def _look(self, node: Node, at: int, of: int, updates: int) -> None:
        result = _result(node)
        if result is None or result.dim() < 2 or not result.numel():
            return
        axis = 1 if result.dim() == 2 or _is_convolved(node) else result.dim() - 1
        count = result.shape[axis]
        if not _FEWEST <= count <= _MOST:
            return
        others = [each for each in range(result.dim()) if each != axis]
        kind = _KINDS[node.name()]
        looks = self._seen.setdefault((at, of, kind, count), deque(maxlen=_LOOKS))
        looks.append((updates, result.numel() // count, _is_lively(kind, result.detach()).any(others), _weight(node)))


def _told(key: _Key, looks: deque[_Seen], lively: int) -> LayerUnits:
    at, _, kind, count = key
    samples = sum(number for _, number, _, _ in looks)
    return LayerUnits(kind, at + 1, looks[-1][3], count, count - lively, samples, looks[0][0], looks[-1][0])


def _is_lively(kind: str, values: Tensor) -> Tensor:
    if kind == "ReLU":
        return values > 0
    middle = values if kind == "tanh" else 2 * values - 1
    return middle.abs() < _FLAT


def _result(node: Node) -> Tensor | None:
    try:
        value: Any = node._saved_result
    except (RuntimeError, AttributeError):  # changed in place since, or freed
        return None
    return value if type(value) is torch.Tensor and not value.is_meta else None


def _is_convolved(node: Node) -> bool:
    """Whether what it is applied to comes from a convolution, whose units are channels."""
    below = [each for each, _ in node.next_functions if each is not None]
    for _ in range(2):
        if any(each.name().startswith("Convolution") for each in below):
            return True
        below = [each for one in below for each, _ in one.next_functions if each is not None]
    return False


def _weight(node: Node) -> Callable[[], Tensor | None]:
    """The first matrix of weights within a few nodes before an activation."""
    waiting = [node]
    for _ in range(_NEAR):
        waiting = [each for one in waiting for each, _ in one.next_functions if each is not None]
        for each in waiting:
            if each.name() == _LEAF and each.variable.dim() > 1:
                reference: Callable[[], Tensor | None] = weakref.ref(each.variable)
                return reference
    return _nothing


def _nothing() -> None:
    """Stands where a weak reference to a parameter would."""
