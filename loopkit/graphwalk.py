"""A walk over every node of a loss graph: which parameters the loss reaches, and how."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from loopkit.holdings import is_zero
from loopkit.lossfunctions import LOSSES
from loopkit.lossreading import Reach

if TYPE_CHECKING:
    from torch import Tensor

    from loopkit.holdings import Owner
    from loopkit.lossgraph import Node
    from loopkit.strays import Missed

MOST_NODES = 20_000
"""Nodes looked at; a larger graph counts as opaque beyond them."""
_ZERO = frozenset(f"{name}Backward0" for name in ("Round", "Floor", "Ceil", "Sign", "Sgn", "Trunc"))
_LEAF = "torch::autograd::AccumulateGrad"
_CAST = "ToCopyBackward0"
_PRODUCTS = ("AddmmBackward", "MmBackward", "BmmBackward", "BaddbmmBackward", "ConvolutionBackward", "LinearBackward")
"""Operations that autocast makes in its own type, and whose derivatives consist of such operations."""


class Leaf:
    """A tensor that gradients would be accumulated into, as one walk met it.

    Attributes:
        live: some path to it passes no operation whose derivative is 0 everywhere.
        oldest, newest: autograd sequence numbers of the nodes that use it: when those parts of the graph were made.
    """

    __slots__ = ("live", "newest", "oldest", "tensor")

    def __init__(self, tensor: Tensor, *, live: bool = False) -> None:
        self.tensor = tensor
        self.live = live
        self.oldest = 1 << 62
        self.newest = -1


class Walk:
    """What one walk from `roots` met.

    Attributes:
        leaves: by `id`; the ids hold only as long as the walk does.
        opaque: kinds of nodes whose inside cannot be seen: compiled regions, custom functions.
        zeroes: kinds of nodes met whose derivative is 0 everywhere.
        losses: nodes where predictions meet targets.
        made_at: the sequence number of the newest root.
        casts: how many leaves are cast on use, by the name of the type they are cast to.
    """

    def __init__(self, roots: Iterable[Tensor]) -> None:
        self.leaves: dict[int, Leaf] = {}
        self.opaque: dict[str, None] = {}
        self.zeroes: dict[str, None] = {}
        self.losses: list[Node] = []
        self.nodes: dict[Node, None] = {}
        self.casts: dict[str, int] = {}
        given = list(roots)
        starts: list[Node] = [root.grad_fn for root in given if root.grad_fn is not None]
        self.made_at: int = max([node._sequence_nr() for node in starts], default=0)
        for root in given:
            if root.grad_fn is None and root.requires_grad:
                self.leaves[id(root)] = Leaf(root, live=True)
        behind = self._visit(starts, live=True)
        self._visit(behind, live=False)

    def _visit(self, waiting: list[Node], *, live: bool) -> list[Node]:
        """Everything below the nodes in `waiting`, but for what lies behind zero derivatives: that is returned."""
        behind: list[Node] = []
        seen = self.nodes
        while waiting:
            node = waiting.pop()
            if node in seen:
                continue
            if len(seen) >= MOST_NODES:
                self.opaque["a graph of more nodes than are walked"] = None
                break
            seen[node] = None
            name = node.name()
            if name in LOSSES:
                self.losses.append(node)
            elif type(node).__module__ != "builtins":
                self.opaque[name.removesuffix("Backward")] = None
            inputs = [each for each, _ in node.next_functions if each is not None]
            leaves = [each for each in inputs if each.name() == _LEAF]
            if leaves:
                if name == _CAST:
                    self._count_cast(node)
                self._meet(leaves, node._sequence_nr(), live and name not in _ZERO)
            if live and name in _ZERO:
                self.zeroes[name.removesuffix("Backward0")] = None
                behind += inputs
            else:
                waiting += inputs
        return behind

    def _meet(self, leaves: list[Node], number: int, live: bool) -> None:
        for each in leaves:
            tensor: Any = each.variable
            leaf = self.leaves.get(id(tensor))
            if leaf is None:
                leaf = self.leaves[id(tensor)] = Leaf(tensor)
            leaf.live = leaf.live or live
            leaf.oldest = min(leaf.oldest, number)
            leaf.newest = max(leaf.newest, number)

    def _count_cast(self, node: Node) -> None:
        """A leaf is cast: under autocast each weight is, once a forward."""
        kind = made_of(node)
        if kind:
            self.casts[kind] = self.casts.get(kind, 0) + 1

    def products_in(self, kind: str) -> int:
        """How many matrix products and convolutions of the graph were made in this type."""
        return sum([made_of(node) == kind for node in self.nodes if node.name().startswith(_PRODUCTS)])

    def reach(self, owner: Owner, missed: tuple[Missed, ...], idle: int) -> Reach:
        """How the walked loss reaches one optimizer's parameters; `Reach` says what `missed` and `idle` are."""
        trainable = [each for each in owner.parameters() if each.requires_grad]
        met = [leaf for each in trainable if (leaf := self.leaves.get(id(each))) is not None]
        moved = [(leaf, at) for leaf, at in self._moved(owner) if at]
        stale = [leaf for leaf, at in moved if self._is_stale(leaf, at)]
        return Reach(
            optimizer=owner.label,
            number=owner.number,
            parameters=len(trainable),
            reached=len(met),
            zeroed=sum(not leaf.live for leaf in met),
            stale=len(stale),
            current=sum(leaf.newest >= at for leaf, at in moved),
            step=owner.last_site if stale else None,
            missed=missed,
            idle=idle,
            made=owner.made,
        )

    def _moved(self, owner: Owner) -> Iterator[tuple[Leaf, int]]:
        """The parameters met, with the sequence number at the last step that moved each; a rate of 0 moves none."""
        optimizer = owner.optimizer()
        groups = getattr(optimizer, "param_groups", ())
        held = [(parameter, group) for group in groups for parameter in group["params"]]
        numbers = owner.each_moved_at or [owner.moved_at] * len(held)
        if len(numbers) != len(held):
            return
        for (parameter, group), number in zip(held, numbers, strict=True):
            leaf = self.leaves.get(id(parameter))
            if leaf is not None and parameter.requires_grad and not is_zero(group.get("lr")):
                yield leaf, number

    def _is_stale(self, leaf: Leaf, at: int) -> bool:
        """Whether it was used before it was moved.

        Sequence numbers count for each thread, and off the CPU a backward with `create_graph` makes nodes on another
        one. The root was made on the user's own: there it must be older than the step as well.
        """
        return leaf.oldest < at and (leaf.tensor.device.type == "cpu" or self.made_at < at)


def made_of(node: Node) -> str:
    """The type of what a node made, such as "float16"; "" where this torch does not say."""
    metadata = getattr(node, "_input_metadata", None)
    return str(metadata[0].dtype).removeprefix("torch.") if metadata else ""
