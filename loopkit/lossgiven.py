"""What a loss, a model and a batch are given, and which nodes of a graph lead to it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
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
_DEEPEST = 16  # views between a loss and what made its input
_VIEWS = (
    *("View", "UnsafeView", "Reshape", "ReshapeAlias", "Squeeze", "Unsqueeze", "Transpose", "Permute", "T", "Clone"),
    *("ToCopy", "Slice", "Select", "Alias", "Expand", "Index"),
)

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


def chain(node: Any) -> list[Key]:
    """The nodes from the input of a loss through views to what made it."""
    found: list[Key] = []
    for _ in range(_DEEPEST):
        if node is None:
            break
        name = node.name()
        found.append((name, node._sequence_nr()))
        if name.partition("Backward")[0] not in _VIEWS or not node.next_functions:
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


def is_causal(nodes: Iterable[Any], like: Tensor) -> Tensor:
    """Whether no attention in this graph lets a position see a later one, as its fused kernels or its masks say.

    Args:
        nodes: of the graph.
        like: a tensor on the device of the answer.
    """
    answers: list[Tensor] = []
    unmasked = 0
    for node in nodes:
        name = node.name()
        if name.startswith("ScaledDotProduct"):
            mask = getattr(node, "_saved_attn_mask", None)
            known = getattr(node, "_saved_is_causal", False)
            answers.append(like.new_tensor(1) if known else _hides_later(mask, like))
        elif name.startswith("SoftmaxBackward"):
            unmasked += 1
        elif name.startswith("MaskedFill") and len(answers) < _MASKS:
            unmasked -= 1
            answers.append(_hides_later(getattr(node, "_saved_mask", None), like))
    return torch.stack(answers).min() if answers and unmasked <= 0 else like.new_tensor(0)


def _hides_later(mask: Any, like: Tensor) -> Tensor:
    """Whether a mask (True, or minus infinity, where nothing is seen) hides all later positions and no first one."""
    if not is_plain(mask) or mask.dim() < 2 or not mask.shape[-1] == mask.shape[-2] > 1:
        return like.new_tensor(0)
    one = mask.reshape(-1, *mask.shape[-2:])[0]
    hidden = one if one.dtype is torch.bool else one.isneginf()
    later = torch.ones_like(hidden).triu(1)
    return ((hidden | ~later).all() & ~hidden[0, 0]).to(like.device, like.dtype)
