"""The loss graph: what autograd wrote down of how a loss was made, read just before backward frees it.

`factors` follows the path from the root to where the loss is reduced: a few nodes, cheap enough for every micro-batch
of an accumulation window (`graphwalk.py` visits all of them, which is not). Constants on the path are kept as they
are and turned into numbers only when a check gets to see them; one that lives on a device is read then.

Nodes created under saved-tensor hooks (activation checkpointing, offloading) are never asked for what they saved: the
answer would run the hook.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from loopkit.lossfunctions import RawNode
from loopkit.lossfunctions import told as told_of_node
from loopkit.lossmade import RawSwapped
from loopkit.lossmade import told as told_of_swapped
from loopkit.lossreading import LossReading, LossTerm
from loopkit.padding import Doors
from loopkit.padding import told as told_of_padding
from loopkit.unseen import unseen

if TYPE_CHECKING:
    from torch import Tensor

    from loopkit.lossnodes import UnusedLoss

Node = Any
"""`torch.autograd.graph.Node`, whose saved values differ from kind to kind."""

_DEEPEST = 64  # nodes between the root and the reduction that are looked at
_GATHERED = ("NegBackward", "StackBackward", "CatBackward", "SumBackward", "MeanBackward")
_LONGEST = 8  # terms of a sum
_RANGES = 256  # of hooked nodes, an update
_UNCHANGED = frozenset(
    f"{name}Backward{i}"
    for name in ("Alias", "Clone", "Expand", "Permute", "Reshape", "ReshapeAlias", "Select", "Squeeze", "ToCopy")
    for i in range(2)
) | {"UnsafeViewBackward0", "UnsqueezeBackward0", "ViewBackward0", "SqueezeBackward2", "SqueezeBackward3"}
"""Nodes that hand a loss on as it is."""
_SAME = frozenset(name for name in _UNCHANGED if not name.startswith(("Select", "Expand")))
"""Of those, the ones that take all of it: each sample of a batch may be sent backward by itself."""
_LEAF = "torch::autograd::AccumulateGrad"

Part = tuple[str, int, int]
"""What made a value: the operation's name, its autograd sequence number and which output: no graph is held."""


class RawTerm(NamedTuple):
    """One term of a loss as it was read: constants are numbers, or tensors on a device, to be read later."""

    kind: str
    reduction: str
    constants: tuple[tuple[Any, bool], ...]
    valid: Any
    total: int | None
    padding: Tensor | None


class RawLoss:
    """What was read of a loss, before anybody asked to know."""

    __slots__ = ("changed", "nodes", "outer", "scaled", "swapped", "terms", "unused", "walked")

    def __init__(self) -> None:
        self.outer: tuple[tuple[Any, bool], ...] = ()
        self.terms: tuple[RawTerm, ...] = ()
        self.scaled = False
        self.walked: dict[str, Any] = {}
        self.nodes: tuple[RawNode, ...] = ()
        self.swapped: tuple[RawSwapped, ...] = ()
        self.unused: tuple[UnusedLoss, ...] = ()
        self.changed: list[tuple[int, Tensor]] = []  # which optimizer, and whether a sampled parameter of it was


class LossGraph:
    """Reads the graphs of losses.

    Attributes:
        hooked: ranges of autograd sequence numbers of nodes that were made under saved-tensor hooks.
        doors: what forwards were given, while walking.
    """

    def __init__(self) -> None:
        self.hooked: list[tuple[int, int]] = []
        self.doors = Doors()
        self._scales: list[Callable[[], object]] = []
        self._opened: list[int] = []

    def scales_with(self, scale: Tensor) -> None:
        """A GradScaler's scale: a product with this very tensor is no factor of the loss."""
        self._scales = [known for known in self._scales if known() is not None]
        if all(known() is not scale for known in self._scales):
            self._scales.append(weakref.ref(scale))

    def hooks_began(self, number: int) -> None:
        """Saved-tensor hooks apply to the nodes made from now on."""
        self._opened.append(number)

    def hooks_ended(self, number: int) -> None:
        """They apply no more."""
        if self._opened:
            began = self._opened.pop()
            if len(self.hooked) >= _RANGES:  # coarser, and still on the safe side
                began = min(began, self.hooked.pop()[0])
            if number > began:
                self.hooked.append((began, number))

    def forget_hooked(self) -> None:
        """The graphs of the update that ends are gone."""
        self.hooked.clear()

    def factors(self, root: Tensor) -> RawLoss:
        """The constants on the path from `root` to where its terms are reduced."""
        read = RawLoss()
        node, constants = self._down(root.grad_fn, read)
        read.outer = tuple(constants)
        read.terms = tuple(self._terms(node, read))
        return read

    def behind(self, root: Tensor) -> tuple[Node, list[tuple[Any, bool]], bool]:
        """The first node that does more than scale the loss; the constants before it; is one a GradScaler's?"""
        read = RawLoss()
        return *self._down(root.grad_fn, read), read.scaled

    def parts(self, root: Tensor) -> list[Part]:
        """The loss and all that is added up to make it, as far as every factor is positive."""
        found: list[Part] = []
        waiting: list[tuple[Node, int]] = [(root.grad_fn, root.output_nr)]
        for _ in range(_DEEPEST):
            node, output = waiting.pop() if waiting else (None, 0)
            if node is None or node.name() == _LEAF:
                continue
            name, constants = node.name(), list[tuple[Any, bool]]()
            behind = [each for each in node.next_functions if each[0] is not None]
            if name.startswith(("MulBackward", "DivBackward")):
                onward = self._constant(node, name, constants, RawLoss())
                if onward is not None:
                    waiting += behind if all(_is_positive(value) for value, _ in constants) else []
                    continue
            elif name in _SAME:
                waiting += behind
                continue
            found.append((name, node._sequence_nr(), output))
            # `torch.add(a, b, alpha=-1)` subtracts.
            if name == "AddBackward0" and getattr(node, "_saved_alpha", 1) > 0:
                waiting += behind
        return found

    def _down(self, node: Node, read: RawLoss) -> tuple[Node, list[tuple[Any, bool]]]:
        """Follow a path as long as it only scales the loss; the first other node, and the constants met."""
        constants: list[tuple[Any, bool]] = []
        for _ in range(_DEEPEST):
            if node is None:
                break
            name = node.name()
            if name == "NegBackward0":
                constants.append((-1.0, False))
            elif name.startswith(("MulBackward", "DivBackward")):
                onward = self._constant(node, name, constants, read)
                if onward is None:
                    break
                node = onward
                continue
            elif name not in _UNCHANGED:
                break
            node = node.next_functions[0][0]
        return node, constants

    def _constant(self, node: Node, name: str, constants: list[tuple[Any, bool]], read: RawLoss) -> Node | None:
        """The node behind a product with, or a quotient by, one constant number; None where it is something else."""
        inputs = [each for each, _ in node.next_functions]
        if len(inputs) == 2 and inputs[0] is None and name == "MulBackward0":
            onward, saved = inputs[1], "_saved_self"
        else:
            onward, saved = inputs[0], "_saved_other"
        if onward is None or (len(inputs) == 2 and None not in inputs) or self.is_hooked(node):
            return None
        value: Any = None
        with suppress(RuntimeError):  # an earlier backward has freed it: this one is about to fail
            value = getattr(node, saved, None)
        if isinstance(value, torch.Tensor):
            if value.numel() != 1 or value.requires_grad:
                return None
            if any(value is scale() for scale in self._scales):
                read.scaled = True
                return onward
        if value is None:
            return None
        constants.append((value, name.startswith("Div")))
        return onward

    def _terms(self, node: Node, read: RawLoss) -> Iterable[RawTerm]:
        """The terms of the sum at `node`, or the one that it is."""
        waiting: list[tuple[Node, tuple[tuple[Any, bool], ...]]] = [(node, ())]
        found = 0
        while waiting and found < _LONGEST:
            at, before = waiting.pop()
            name = "" if at is None else at.name()
            if name.startswith(("AddBackward", "SubBackward")):
                for each, _ in at.next_functions:
                    if each is not None:
                        below, constants = self._down(each, read)
                        waiting.append((below, before + tuple(constants)))
                continue
            found += 1
            yield self._term(at, name, before)

    def _term(self, node: Node, name: str, constants: tuple[tuple[Any, bool], ...]) -> RawTerm:
        kind = name.partition("Backward")[0]
        number = getattr(node, "_saved_reduction", None)
        valid, total, padding = None, None, None
        if number is not None:
            reduction = ("none", "mean", "sum")[number] if number in (0, 1, 2) else ""
            if kind.startswith("NllLoss") and not self.is_hooked(node):
                with suppress(RuntimeError):  # an earlier backward has freed it: this one is about to fail
                    total = node._saved_target.numel()
                    # With class weights this is the sum of weights, and no count.
                    valid = node._saved_total_weight if node._saved_weight is None else None
                    padding = self.doors.beside(node) if reduction in ("mean", "sum") else None
            if kind.startswith("BinaryCrossEntropy") and node._saved_weight is not None:
                reduction = ""  # what it is a mean of may have been divided by anything
        else:
            reduction = {"Mean": "mean", "Sum": "sum"}.get(kind, "")
            if reduction == "mean" and _is_scaled_below(node):
                reduction = ""
        return RawTerm(kind, reduction, constants, valid, total, padding)

    def is_hooked(self, node: Node) -> bool:
        """Whether a node was made under saved-tensor hooks: it is not asked for what it saved."""
        if node is None or (not self.hooked and not self._opened):
            return False
        number = node._sequence_nr()
        open_now = [(first, number + 1) for first in self._opened]
        return any(first <= number < last for first, last in self.hooked + open_now)


def _is_scaled_below(mean: Node) -> bool:
    """Whether what a mean is taken of is a product or quotient, which may hold the window's constant already."""
    waiting = [each for each, _ in mean.next_functions]
    for _ in range(_DEEPEST):
        node = waiting.pop() if waiting else None
        if node is None:
            continue
        name = node.name()
        if name.startswith(("MulBackward", "DivBackward")):
            return True
        if name in _UNCHANGED or name.startswith(_GATHERED):
            waiting += [each for each, _ in node.next_functions]
    return False


def told(raw: RawLoss) -> LossReading:
    """A raw reading in the words of checks; constants on a device are read here."""
    with unseen():
        walked = raw.walked
        if raw.changed:
            flags = torch.stack([flag for _, flag in raw.changed]).tolist()
            changed = Counter(number for (number, _), flag in zip(raw.changed, flags, strict=True) if flag)
            reaches = tuple(dataclasses.replace(each, changed=changed[each.number]) for each in walked["reaches"])
            walked = walked | {"reaches": reaches}
        return LossReading(
            factor=_product(raw.outer),
            terms=tuple(
                LossTerm(
                    term.kind,
                    term.reduction,
                    _product(term.constants),
                    _number(term.valid),
                    term.total,
                    told_of_padding(term.padding),
                )
                for term in raw.terms
            ),
            scaled=raw.scaled,
            nodes=tuple(told_of_node(node) for node in raw.nodes),
            swapped=told_of_swapped(raw.swapped),
            unused=raw.unused,
            **walked,
        )


def _is_positive(value: Any) -> bool:
    """Whether a constant is known to be above 0, without asking a device."""
    if isinstance(value, torch.Tensor):
        if value.device.type != "cpu" or type(value) is not torch.Tensor:
            return False
        with unseen():
            return bool(value > 0)
    return bool(value > 0)


def _number(value: Any) -> float | None:
    """The number a constant is; not a number where it cannot be read: a fake tensor, or one that is sharded."""
    if value is None:
        return None
    try:
        # Asking a sharded tensor would start a collective, which the other ranks do not wait for.
        return float("nan") if hasattr(value, "_local_tensor") else float(value)
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return float("nan")


def _product(constants: Iterable[tuple[Any, bool]]) -> float:
    product = 1.0
    for value, inverse in constants:
        number = _number(value)
        assert number is not None
        if inverse:
            product = product / number if number else float("nan")
        else:
            product *= number
    return product
