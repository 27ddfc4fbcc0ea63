"""Predictions and targets of N and N×1 that were repeated to N×N to fit each other.

The functions of `torch.nn` repeat both by views, which their node shows. Where the loss is written by hand, the
shapes stand at the nodes of the operations; a target without a gradient leaves no shape there: two rows of the
difference are compared, which differ by one number where the target was the same for both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor

from loopkit.lossinputs import Shape, kind_of, saved, shape_of
from loopkit.lossnodes import Spread
from loopkit.unseen import unseen

if TYPE_CHECKING:
    from loopkit.lossgraph import Node

    Edge = tuple[Node, int]

_DEEPEST = 8  # nodes between the reduction and the operation that repeats
_ELEMENTS = 1 << 22
_ONWARD = frozenset({"Abs", "Alias", "Clone", "Neg", "Pow", "Sqrt", "ToCopy"})
_MEANT = frozenset({"Unsqueeze", "Permute", "T", "Transpose"})
"""What gives a shape of one's own choice: pairs are meant."""
_RESHAPED = frozenset({"Reshape", "ReshapeAlias", "UnsafeView", "View"})
_TOLERANCE = 1e-3

Found = tuple[Spread, Tensor | None]
"""What was repeated, and the flag that says so where shapes alone do not; it is on the device."""


def in_function(node: Node) -> Found | None:
    """What a loss of `torch.nn.functional` was given, by its node."""
    edge = _below(node.next_functions[0])
    target = saved(node, "_saved_target")
    result = shape_of(edge)
    if edge[0] is None or kind_of(edge[0]) != "Expand" or not _is_square(result) or not _is_plain(target):
        return None
    prediction = _given(edge)
    if prediction is None or target.dim() != 2:
        return None
    strides = target.stride()
    repeated = 0 if len(prediction) == 2 else 1  # (N, 1) meets rows that are all one, (N,) such columns
    if strides[repeated] != 0 or strides[1 - repeated] == 0:
        return None
    return Spread(prediction, _other(prediction), result), None


def square_of(node: Node) -> Shape | None:
    """The shape of what a mean or a sum is taken over all of, where it is a square."""
    sizes = saved(node, "_saved_self_sym_sizes")
    result = tuple(int(size) for size in sizes) if sizes is not None else ()
    return result if _is_square(result) else None


def by_hand(node: Node, result: Shape) -> Found | None:
    """What a mean or a sum over all of a square was made of."""
    edge, difference = node.next_functions[0], None
    for _ in range(_DEEPEST):
        at = edge[0]
        if at is None or shape_of(edge) != result:
            return None
        name, inputs = kind_of(at), [each for each in at.next_functions if each[0] is not None]
        if name in _ONWARD or (name in ("Mul", "Add") and _is_whole(at, inputs, result)):
            if name in ("Pow", "Abs", "Mul"):
                difference = saved(at, "_saved_self")
            edge = inputs[0]
            continue
        return _meeting(at, name, inputs, result, difference)
    return None


def _is_whole(node: Node, inputs: list[Edge], result: Shape) -> bool:
    """Whether a product or sum is of two squares, or of one and a weight that chooses no pairs."""
    if any(shape_of(each) != result for each in inputs):
        return False
    if len(inputs) == 2:
        return True
    other = saved(node, "_saved_other" if node.next_functions[0][0] is not None else "_saved_self")
    return kind_of(node) == "Mul" and not (isinstance(other, Tensor) and tuple(other.shape) == result)


def _meeting(node: Node, name: str, inputs: list[Edge], result: Shape, difference: Any) -> Found | None:
    """Where a prediction meets a target, if that is what this node is."""
    if name not in ("Sub", "Mul", "Add"):
        return None
    given = [_given(each) for each in inputs]
    if None in given or not given:
        return None
    prediction = given[0]
    assert prediction is not None
    spread = Spread(prediction, _other(prediction), result)
    if len(given) == 2:
        return (spread, None) if given[1] == spread.target else None
    if name == "Mul":
        other = saved(node, "_saved_other" if node.next_functions[0][0] is not None else "_saved_self")
        return (spread, None) if isinstance(other, Tensor) and tuple(other.shape) == spread.target else None
    if not _is_plain(difference) or tuple(difference.shape) != result:
        return None
    return spread, _flag(difference, len(prediction))


def _flag(difference: Tensor, dimensions: int) -> Tensor:
    """Whether two rows of a difference from N×1 (two columns of one from N) differ by one number."""
    with unseen(), torch.no_grad():
        square = difference.detach().double() if difference.device.type != "mps" else difference.detach()
        square = square if dimensions == 2 else square.T
        gap = square[0] - square[1]
        spread = square[0].max() - square[0].min()  # 0 where the targets are all one: that proves nothing
        flag: Tensor = (gap.max() - gap.min() <= _TOLERANCE * spread) & (spread > 0)
        return flag


def _given(edge: Edge) -> Shape | None:
    """The shape, N or N×1, of what was repeated; None where it is another, or looks chosen."""
    edge = _below(edge)
    node = edge[0]
    if node is None:
        return None
    if kind_of(node) == "Expand":
        edge = _below(node.next_functions[0])
        node = edge[0]
    shape = shape_of(edge)
    is_one = len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)
    if node is None or not is_one or shape[0] < 2 or kind_of(node) in _MEANT:
        return None
    if kind_of(node) in _RESHAPED and len(shape) == 2 and len(shape_of(node.next_functions[0])) == 1:
        return None
    return shape


def _below(edge: Edge) -> Edge:
    while edge[0] is not None and kind_of(edge[0]) in ("Alias", "Clone", "ToCopy"):
        edge = edge[0].next_functions[0]
    return edge


def _other(prediction: Shape) -> Shape:
    return (prediction[0],) if len(prediction) == 2 else (prediction[0], 1)


def _is_square(shape: Shape) -> bool:
    return len(shape) == 2 and shape[0] == shape[1] >= 2


def _is_plain(value: object) -> TypeGuard[Tensor]:
    """A dense tensor whose numbers are its own, and not too many."""
    if not isinstance(value, Tensor) or type(value) not in (Tensor, torch.nn.Parameter) or value.is_meta:
        return False
    return value.layout is torch.strided and value.numel() <= _ELEMENTS
