"""The loss functions in a walked graph, each with what it was given."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from loopkit import spreading
from loopkit.lossinputs import DRAWN, kind_of, operations, saved, shape_of
from loopkit.lossnodes import LossNode, Operation
from loopkit.unseen import unseen

if TYPE_CHECKING:
    from loopkit.callsite import Site
    from loopkit.lossgraph import Node

LOSSES = frozenset(
    f"{name}Backward0"
    for name in (
        "BinaryCrossEntropy",
        "BinaryCrossEntropyWithLogits",
        "HuberLoss",
        "LogSoftmax",
        "Mean",
        "MseLoss",
        "NllLoss",
        "NllLoss2D",
        "SmoothL1Loss",
        "Sum",
    )
)
"""Nodes that are kept of a walk: where predictions meet targets."""
_DISTANCES = frozenset({"HuberLoss", "MseLoss", "SmoothL1Loss"})
_MOST = 16
_ELEMENTS = 1 << 22
_SCALE = 1.0


class RawNode(NamedTuple):
    """A loss function as it was read, and numbers on the device that are read when a check gets to see it.

    Args:
        node: all that is known without them.
        dropped: the place of an operation that is dropout if the number beside it is 1.
        spread: whether `node.spread` holds, where shapes alone do not say.
        negative: as `LossNode.negative`.
    """

    node: LossNode
    dropped: tuple[tuple[int, Tensor], ...] = ()
    spread: Tensor | None = None
    negative: Tensor | None = None


def read(
    nodes: Iterable[Node], site_of: Callable[[Node], Site | None], is_hooked: Callable[[Node], bool]
) -> tuple[RawNode, ...]:
    """The loss functions among these nodes of a graph that is still whole.

    Args:
        nodes: those of `LOSSES`.
        site_of: where the function was called that made a node.
        is_hooked: whether it was made under saved-tensor hooks: what it saved is not asked for then.
    """
    several = sorted(nodes, key=lambda node: kind_of(node) == "LogSoftmax")  # what a loss has taken is none by itself
    taken: set[Node] = set()
    found: list[RawNode] = []
    meant = False
    for each in several:
        if len(found) == _MOST:
            break
        kind, hooked = kind_of(each), is_hooked(each)
        if kind in ("Mean", "Sum"):
            square = None if hooked else spreading.square_of(each)
            made = None if square is None else spreading.by_hand(each, square)
            meant = meant or (square is not None and made is None)
            if made is not None:
                found.append(RawNode(LossNode("", site_of(each), (), spread=made[0]), spread=made[1]))
        elif each not in taken:
            found.append(_function(each, kind, site_of(each), is_hooked, taken))
    if meant:  # a loss over pairs has terms over other pairs too
        found = [each for each in found if each.node.kind]
    return tuple(found)


def told(raw: RawNode) -> LossNode:
    """In the words of checks; numbers on the device are read here."""
    node = raw.node
    flags = [flag for _, flag in raw.dropped]
    flags += [flag for flag in (raw.spread, raw.negative) if flag is not None]
    if not flags:
        return node
    with unseen(), torch.no_grad():
        numbers = torch.stack([flag.float() for flag in flags]).tolist()
    if raw.negative is not None:
        node = dataclasses.replace(node, negative=numbers.pop())
    if raw.spread is not None and not numbers.pop():
        node = dataclasses.replace(node, spread=None)
    for (at, _), number in zip(raw.dropped, numbers, strict=True):
        known = dataclasses.replace(node.operations[at], name="Dropout" if number else "Mul")
        # Behind a product like any other nothing is looked at.
        beyond = node.operations[at + 1 :] if number else ()
        node = dataclasses.replace(
            node, operations=(*node.operations[:at], known, *beyond), features=node.features if number else None
        )
        if not number:
            break
    return node


def _function(
    node: Node, kind: str, site: Site | None, is_hooked: Callable[[Node], bool], taken: set[Node]
) -> RawNode:
    edge = (node, 0) if kind == "LogSoftmax" else node.next_functions[0]
    draws: list[Tensor] = []

    def is_dropout(product: Node) -> bool:
        flag = None if is_hooked(product) else _is_drawn(product)
        draws.extend([flag] if flag is not None else [])
        return flag is not None

    shape = shape_of(edge)
    classes = _classes(node, kind, len(shape))
    found, features = operations(edge, classes, is_dropout, taken) if edge[0] is not None else ([], None)
    products = [at for at, each in enumerate(found) if each.name == DRAWN]
    spread = spreading.in_function(node) if kind in _DISTANCES and not is_hooked(node) else None
    return RawNode(
        LossNode(kind, site, tuple(found), classes, features, spread and spread[0]),
        tuple(zip(products, draws, strict=True)),
        None,
        None if is_hooked(node) else _below_zero(node, kind, found),
    )


def _classes(node: Node, kind: str, dimensions: int) -> int | None:
    """The axis of classes of a loss's input."""
    if kind.startswith("NllLoss"):
        return min(1, dimensions - 1)
    if kind == "LogSoftmax" and dimensions:
        return int(node._saved_dim) % dimensions if node._saved_dim < 1 << 63 else None
    return None


def _is_drawn(product: Node) -> Tensor | None:
    """The flag that says whether a product is with 0 and one number above 1: what dropout draws."""
    noise: Any = saved(product, "_saved_other")
    if type(noise) is not Tensor or noise.requires_grad or not noise.is_floating_point() or noise.is_meta:
        return None
    if tuple(noise.shape) != shape_of((product, 0)) or not 2 <= noise.numel() <= _ELEMENTS:
        return None
    with unseen(), torch.no_grad():
        most = noise.max()
        flag: Tensor = (most > _SCALE) & ((noise == 0) | (noise == most)).all()
        return flag


def _below_zero(node: Node, kind: str, found: list[Operation]) -> Tensor | None:
    """The share of targets below 0, where the prediction is never below it."""
    if kind not in _DISTANCES or not found or found[0].name != "Relu":
        return None
    target = saved(node, "_saved_target")
    if type(target) is not Tensor or target.is_meta or not 1 <= target.numel() <= _ELEMENTS:
        return None
    with unseen(), torch.no_grad():
        share: Tensor = (target < 0).float().mean()
        return share
