"""What a loss, a model and a batch are given, and which nodes of a graph lead to it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from loopkit.lossvalues import MOST, is_plain

IN_LOGARITHMS = ("nll_loss", "kl_div")
OF_CLASSES = ("cross_entropy", "nll_loss")
_TOKENS = 3
"""Token tensors of one forward that targets are laid beside."""
_NO_TOKENS = ("mask", "label", "position", "type", "segment", "length")
_MEMBERS = 32  # of a batch
_MASKS = 4  # of attention that are looked at
_VIEWS_ABOVE = 3  # between a loss and what reduces it
_DEEPEST = 16  # views between a loss and what made its input
_VIEWS = (
    *("View", "UnsafeView", "Reshape", "ReshapeAlias", "Squeeze", "Unsqueeze", "Transpose", "Permute", "T", "Clone"),
    *("ToCopy", "Slice", "Select", "Alias", "Expand", "Index"),
)
_CHOOSING = ("Slice", "Select", "Index", "Expand")
_AXES_OF_TOKENS = 2
_MOVING = ("RollBackward", "ConstantPadNdBackward", "torch::autograd::CopySlices")

Key = tuple[str, int]
"""A node of a graph: its kind and autograd sequence number; no graph is held."""


class Tokens(NamedTuple):
    """A copy of what a model was given as `name`."""

    name: str
    ids: Tensor


def given(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Mapping[str, Any]:
    """What a model was called with, by name."""
    if len(args) == 1 and isinstance(args[0], Mapping):
        return {str(key): value for key, value in args[0].items()} | kwargs
    try:
        names = list(inspect.signature(module.forward).parameters)
    except (TypeError, ValueError):
        names = []
    names += [str(i) for i in range(len(names), len(args))]
    return dict(zip(names, args, strict=False)) | kwargs


def tokens(given: Mapping[str, Any]) -> Iterator[Tokens]:
    """Copies of what may be rows of tokens: not masks, and not what the targets are made of."""
    found = 0
    for name, value in given.items():
        if found == _TOKENS or any(each in name for each in _NO_TOKENS) or not is_plain(value):
            continue
        if value.dtype in (torch.int64, torch.int32) and value.dim() == 2 and 0 < value.numel() <= MOST:
            found += 1
            yield Tokens(name, value.detach().clone())


def members(batch: Any, name: str = "", depth: int = 0) -> Iterable[tuple[str, Any]]:
    """The tensors of a batch, with their names."""
    if isinstance(batch, Tensor):
        yield name, batch
    elif depth < 2:
        pairs: Iterable[tuple[Any, Any]] = ()
        if isinstance(batch, Mapping):
            pairs = batch.items()
        elif isinstance(batch, (tuple, list)) and len(batch) <= _MEMBERS:
            pairs = enumerate(batch)
        for key, value in pairs:
            yield from members(value, f"{name}[{key!r}]", depth + 1)


def argument(args: tuple[Any, ...], position: int, default: Any) -> Any:
    """An argument by position."""
    return args[position] if len(args) > position else default


def classes(kind: str, value: Tensor) -> int:
    """How many classes the input of a loss has; 0 where it has none."""
    return int(value.shape[1] if value.dim() > 1 else value.numel()) if kind in OF_CLASSES else 0


def class_dims(kind: str, value: Tensor) -> tuple[int, ...]:
    """Over which dimensions the input of a loss may be a distribution."""
    if kind in OF_CLASSES:
        return (1 if value.dim() > 1 else 0,)
    if kind == "kl_div" and value.dim():
        dims = (-1,) if value.dim() < 3 else (-1, 1)
        return tuple(dim for dim in dims if value.shape[dim] > 1)
    return ()


def is_view(name: str) -> bool:
    """Whether a node hands values on as they are."""
    return name.partition("Backward")[0] in _VIEWS


def chain(node: Any) -> list[Key]:
    """The nodes from the input of a loss through views to what made it."""
    found: list[Key] = []
    for _ in range(_DEEPEST):
        if node is None:
            break
        name = node.name()
        found.append((name, node._sequence_nr()))
        if not is_view(name) or not node.next_functions:
            break
        node = node.next_functions[0][0]
    return found


def is_shared(chain: set[Key], nodes: Iterable[Any]) -> bool:
    """Whether more than one node uses what the input of a loss is made of, the views between them left out."""
    users: set[Key] = set()
    for node in nodes:
        behind = [(each.name(), each._sequence_nr()) for each, _ in node.next_functions if each is not None]
        if not chain.isdisjoint(behind):
            users.add((node.name(), node._sequence_nr()))
    return len(users - chain) > 1


def reduced_by(made: Key, nodes: Iterable[Any]) -> set[str]:
    """What a loss that has an element for each target goes into, the views between them left out."""
    waiting = list(nodes)
    inside, found = {made}, set[str]()
    for _ in range(_VIEWS_ABOVE):
        found, before = set(), len(inside)
        for node in waiting:
            key = node.name(), node._sequence_nr()
            behind = ((each.name(), each._sequence_nr()) for each, _ in node.next_functions if each is not None)
            if key not in inside and not inside.isdisjoint(behind):
                if is_view(key[0]) and not key[0].startswith(_CHOOSING):
                    inside.add(key)
                else:
                    found.add(key[0].partition("Backward")[0])
        if len(inside) == before:
            break
    return found


class Attention(NamedTuple):
    """What the attention of a graph hides.

    Args:
        causal: no position sees a later one, as 0 or 1.
        unmasked: it is made by fused kernels alone, all of which were given no mask and are not causal.
    """

    causal: Tensor
    unmasked: bool


def attention_of(nodes: Iterable[Any], like: Tensor, is_hooked: Callable[[Any], bool]) -> Attention:
    """What fused kernels and masks in a graph say of its attention.

    Args:
        nodes: of the graph.
        like: a tensor on the device of the answer.
        is_hooked: whether a node must not be asked for what it saved.
    """
    answers: list[Tensor] = []
    plain, kernels, masked = 0, 0, 0
    for node in nodes:
        name = node.name()
        if name.startswith("ScaledDotProduct"):
            causal = getattr(node, "_saved_is_causal", False)
            mask = None if is_hooked(node) else getattr(node, "_saved_attn_mask", None)
            kernels += 1
            masked += causal or mask is not None or is_hooked(node)
            answers.append(like.new_tensor(1) if causal else _hides_later(mask, like))
        elif name.startswith("SoftmaxBackward"):
            plain += 1
        elif name.startswith("MaskedFill") and len(answers) < _MASKS and not is_hooked(node):
            plain -= 1
            answers.append(_hides_later(getattr(node, "_saved_mask", None), like))
    known = torch.stack(answers).min() if answers and plain <= 0 else like.new_tensor(0)
    return Attention(known, kernels > 0 and not masked and len(answers) == kernels)


def in_place(nodes: Iterable[Any], ids: Tensor, is_hooked: Callable[[Any], bool]) -> Tensor:
    """Whether a graph looks up all these tokens at once, and nothing in it moves positions: 0 or 1.

    A model may shift inside what it is given as a whole: feed it to itself token by token, or put a start before it.
    """
    found: list[Tensor] = []
    along: set[str] = set()
    for node in nodes:
        name = node.name()
        if name.startswith(("Cat", "Stack", "Select")) and node._saved_dim < _AXES_OF_TOKENS:
            along.add(name.partition("Backward")[0])
        if name.startswith(_MOVING) or "Cat" in along or {"Stack", "Select"} <= along:  # a layer of cells stacks too
            return ids.new_tensor(0)
        if name.startswith("EmbeddingBackward") and not is_hooked(node):
            looked_up = getattr(node, "_saved_indices", None)
            if is_plain(looked_up) and looked_up.shape == ids.shape and looked_up.device == ids.device:
                found.append((looked_up == ids).all())
    return torch.stack(found).any().to(ids.dtype) if found else ids.new_tensor(0)


def _hides_later(mask: Any, like: Tensor) -> Tensor:
    """Whether a mask (True, or minus infinity, where nothing is seen) hides all later positions and no first one."""
    if not is_plain(mask) or mask.dim() < 2 or not mask.shape[-1] == mask.shape[-2] > 1:
        return like.new_tensor(0)
    one = mask.reshape(-1, *mask.shape[-2:])[0]
    hidden = one if one.dtype is torch.bool else one.isneginf()
    later = torch.ones_like(hidden).triu(1)
    return ((hidden | ~later).all() & ~hidden[0, 0]).to(like.device, like.dtype)
