"""From a loss function down to the layer it is fed by: which operations lie between, and on which axes.

Each axis of the loss's input is followed through views, transpositions and casts by its size and by what is stored
behind it. Nothing is read from the device, and nothing that was saved under hooks is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import TYPE_CHECKING, Any

from loopkit.lossnodes import Operation

if TYPE_CHECKING:
    from loopkit.lossgraph import Node

Shape = tuple[int, ...]
Axes = tuple[int | None, ...]
"""Where each axis of the loss's input is in the tensor that is looked at; None where it cannot be said."""

_LEAF = "torch::autograd::AccumulateGrad"
_DEEPEST = 24  # nodes between a loss and its layer
_MOST = 5  # operations between them
DRAWN = "Drawn"
"""The name of a product that may be dropout: what it is a product with tells."""
_KEPT = frozenset({"Alias", "Clone", "ToCopy", "Contiguous"})
_RESHAPED = frozenset({"View", "UnsafeView", "Reshape", "ReshapeAlias", "Squeeze", "Unsqueeze", "Flatten"})
_TURNED = frozenset({"Transpose", "Permute", "T", "Select", "Slice"})
_NORMALISED = frozenset({"LogSoftmax", "Softmax"})
ACTIVATIONS = _NORMALISED | {
    "Elu",
    "Gelu",
    "Hardsigmoid",
    "Hardtanh",
    "Log",
    "NativeDropout",
    "Relu",
    "Sigmoid",
    "Silu",
    "Softplus",
    "Tanh",
    "Threshold",
}
"""Operations that are looked through: what comes next is what they were applied to."""
_LINEAR = {"Addmm": 1, "Mm": 0}
"""Products with a weight, each with which input is the data; their features are the last axis."""
_SIDEWAYS = frozenset({"Convolution", "NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm", "Bmm"})
_WITHIN = ACTIVATIONS - _NORMALISED | {"Mul", "Add", "NativeLayerNorm", "LeakyRelu"}


def kind_of(node: Node) -> str:
    """The operation's name, without what autograd puts after it."""
    name = str(node.name())
    operation, _, number = name.rpartition("Backward")
    return operation if number.isdigit() else name  # a function of the user's own has none


def shape_of(edge: tuple[Node, int]) -> Shape:
    """The shape of what a node gave, without reading it; () where that is not known."""
    node, output = edge
    given = getattr(node, "_input_metadata", ())
    if output >= len(given):
        return ()
    try:
        return tuple(int(size) for size in given[output].shape)
    except (RuntimeError, TypeError, ValueError):  # nested tensors have sizes that are no numbers
        return ()


def signed(number: int) -> int:
    """What autograd shows unsigned."""
    return number - (1 << 64) if number >= 1 << 63 else number


def operations(
    edge: tuple[Node, int], classes: int | None, is_dropout: Callable[[Node], bool], taken: set[Node]
) -> tuple[list[Operation], int | None]:
    """What lies behind an input of a loss, nearest first; and which axis of that input its layer's features are.

    Args:
        edge: that input.
        classes: its axis of classes.
        is_dropout: whether a product may be with what dropout draws.
        taken: gets each log-softmax that is met.
    """
    axes: Axes = tuple(range(len(shape_of(edge))))
    found: list[Operation] = []
    for _ in range(_DEEPEST):
        node = edge[0]
        if node is None:
            break
        name, shape = kind_of(node), shape_of(edge)
        behind = node.next_functions[0] if node.next_functions else (None, 0)
        if name in _KEPT or name in _RESHAPED or name in _TURNED or (name == "Add" and _is_bias(node)):
            if behind[0] is None:
                break
            axes = _through(node, name, axes, shape, shape_of(behind))
            edge = behind
            continue
        dropped = name == "Mul" and is_dropout(node)
        taken |= {node} if name == "LogSoftmax" else set()
        at = None if classes is None or classes >= len(axes) else axes[classes]
        found.append(Operation(DRAWN if dropped else _named(name), shape, _axis(node, name, shape), at))
        if not (dropped or name in ACTIVATIONS) or len(found) == _MOST:
            return found, _features(node, name, shape, axes)
        if behind[0] is None:
            break
        edge = behind
    return found, None


def _named(name: str) -> str:
    return "Dropout" if name == "NativeDropout" else name


def _axis(node: Node, name: str, shape: Shape) -> int | None:
    if name not in _NORMALISED or not shape:
        return None
    return int(signed(node._saved_dim)) % len(shape)


def _through(node: Node, name: str, axes: Axes, shape: Shape, inner: Shape) -> Axes:
    """Where the axes are on the other side of a view."""
    if name in _KEPT or name in ("Add", "Slice"):
        return axes
    if not shape or not inner:
        return tuple(None for _ in axes)
    if name in _RESHAPED:
        return tuple(None if axis is None else _same_axis(axis, shape, inner) for axis in axes)
    order = list(_order(node, name, len(inner)))
    return tuple(None if axis is None or axis >= len(order) else order[axis] for axis in axes)


def _order(node: Node, name: str, dimensions: int) -> Iterator[int]:
    """For each axis of the result which one of the input it was."""
    axes = list(range(dimensions))
    if name == "Permute":
        return iter([signed(dim) % dimensions for dim in node._saved_dims])
    if name == "Select":
        del axes[signed(node._saved_dim) % dimensions]
    elif dimensions >= 2:
        first, second = (0, 1) if name == "T" else (signed(node._saved_dim0), signed(node._saved_dim1))
        axes[first], axes[second] = axes[second], axes[first]
    return iter(axes)


def _same_axis(axis: int, shape: Shape, inner: Shape) -> int | None:
    """The axis of as many entries, with as many stored behind each: a reshaping moves nothing."""
    size, behind = shape[axis], prod(shape[axis + 1 :])
    if size == 1:
        return None
    fits = [at for at, each in enumerate(inner) if each == size and prod(inner[at + 1 :]) == behind]
    return fits[0] if len(fits) == 1 else None


def _features(node: Node, name: str, shape: Shape, axes: Axes) -> int | None:
    """Which axis of the loss's input holds the features of a layer; None where the layer may mix other axes."""
    if name == "Convolution":
        at = 1
    elif name in _LINEAR and _has_weight(node) and not _is_turned(node.next_functions[_LINEAR[name]]):
        at = len(shape) - 1
    else:
        return None
    fits = [axis for axis, there in enumerate(axes) if there == at]
    return fits[0] if len(fits) == 1 else None


def _has_weight(product: Node) -> bool:
    """Whether what is multiplied with is a parameter, turned as `Linear` turns its weight."""
    turned = product.next_functions[-1][0]
    if turned is None or kind_of(turned) not in ("T", "Transpose"):
        return False
    behind = turned.next_functions[0][0]
    return behind is not None and behind.name() == _LEAF


def _is_bias(added: Node) -> bool:
    """Whether a sum is with a parameter of one axis, as `Linear` adds it to what is not stored in one piece."""
    leaf = added.next_functions[-1]
    return leaf[0] is not None and leaf[0].name() == _LEAF and len(shape_of(leaf)) == 1


def _is_turned(edge: tuple[Node, int]) -> bool:
    """Whether what a linear layer is given had its last axis moved there, or has its features elsewhere."""
    for _ in range(_DEEPEST):
        node = edge[0]
        if node is None or not node.next_functions:
            return False
        name = kind_of(node)
        if name in _SIDEWAYS:
            return True
        behind = node.next_functions[0]
        if name in _TURNED and name not in ("Slice", "Select"):
            dimensions = len(shape_of(behind))
            if not dimensions or list(_order(node, name, dimensions))[-1] != dimensions - 1:
                return True
        elif name not in _WITHIN and name not in _KEPT and name not in _RESHAPED and name not in _TURNED:
            return False
        edge = behind
    return False


def saved(node: Node, name: str) -> Any:
    """A value that autograd saved; None where there is none, or an earlier backward has freed it."""
    try:
        return getattr(node, name, None)
    except RuntimeError:
        return None
