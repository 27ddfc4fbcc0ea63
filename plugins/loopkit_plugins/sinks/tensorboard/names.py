"""Names of parameters, as the model has them, in its order; the layers they form; which of them are shown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from loopkit import Models

MOST_LAYERS = 24
"""Lines in the chart of gradient norms by depth."""


class Named(NamedTuple):
    """A parameter of an optimizer.

    Attributes:
        name: `layers.0.weight`; `group0.3` for one of a model that was not seen.
        layer: `layers.0`.
        tensor: the parameter.
        known: it is the model's name.
    """

    name: str
    layer: str
    tensor: Tensor
    known: bool = True


def tag(text: str) -> str:
    """A name in the characters that TensorBoard's tags have."""
    text = re.sub(r"\[['\"]?([^]'\"]*)['\"]?\]", r".\1", text)
    return re.sub(r"[^-/\w.]", "_", text)


def named(optimizer: Optimizer, models: Models) -> list[Named]:
    """The parameters of an optimizer in the order of the model; those without a name last."""
    spots = models.parameters()
    roots = {spot.name.partition(".")[0] for spot in spots.values()}
    known: list[tuple[int, str, Tensor]] = []
    order = {key: at for at, key in enumerate(spots)}
    for g, group in enumerate(optimizer.param_groups):
        for i, parameter in enumerate(group["params"]):
            spot = spots.get(id(parameter))
            if spot is None:
                known.append((len(order), f"group{g}.{i}", parameter))
            else:
                name = spot.name if len(roots) > 1 else re.sub(r"^[^.[]*\.?", "", spot.name)
                known.append((order[id(parameter)], tag(name).lstrip("."), parameter))
    known.sort(key=lambda each: each[0])
    return [Named(name, layer_of(name), tensor, id(tensor) in spots) for name, tensor in _unique(known)]


def _unique(known: Iterable[tuple[int, str, Tensor]]) -> Iterable[tuple[str, Tensor]]:
    """Two models of one class have parameters of one name."""
    seen: dict[str, int] = {}
    for _, name, tensor in known:
        seen[name] = seen.get(name, 0) + 1
        yield (name if seen[name] == 1 else f"{name}_{seen[name]}"), tensor


def layer_of(name: str) -> str:
    """The layer a parameter belongs to: up to the first number in its path, else its first two parts.

    `bert.encoder.layer.0.attention.query.weight` is of `bert.encoder.layer.0`, `fc.weight` of `fc`.
    """
    *path, _ = name.split(".")
    for at, part in enumerate(path):
        if part.isdigit():
            return ".".join(path[: at + 1])
    return ".".join(path[:2]) or name


def layers(parameters: Iterable[Named]) -> dict[str, list[Named]]:
    """Parameters by layer, in order."""
    found: dict[str, list[Named]] = {}
    for each in parameters:
        found.setdefault(each.layer, []).append(each)
    return found


def evenly(items: Sequence[str], count: int) -> list[str]:
    """At most `count` of them, spread evenly, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    if count == 1:
        return [items[0]]
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def shown(parameters: Sequence[Named], limit: int) -> list[Named]:
    """At most `limit` parameters: all of them, or the matrices of as many whole layers, evenly over the depth."""
    if len(parameters) <= limit:
        return list(parameters)
    by_layer = layers([each for each in parameters if each.tensor.dim() > 1] or parameters)
    names = list(by_layer)
    for count in range(min(len(names), limit), 0, -1):
        chosen = [each for name in evenly(names, count) for each in by_layer[name]]
        if len(chosen) <= limit:
            return chosen
    first = {each.name: each for each in by_layer[names[0]]}
    return [first[name] for name in evenly(list(first), limit)]
