"""Where losses are made: calls of torch's loss functions in updates whose graphs are walked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from loopkit.lossinputs import kind_of
from loopkit.lossnodes import Swapped
from loopkit.unseen import unseen

if TYPE_CHECKING:
    from loopkit.callsite import Site
    from loopkit.lossgraph import Node

_MOST = 64  # calls of one update that are remembered
_ELEMENTS = 1 << 22
_DEEPEST = 8
_UNEQUAL = frozenset({"kl_div", "binary_cross_entropy", "binary_cross_entropy_with_logits", "cross_entropy"})
"""Functions that say something else with their arguments swapped."""
_VIEWS = ("Alias", "Clone", "Permute", "Reshape", "Squeeze", "ToCopy", "Transpose", "Unsqueeze", "View", "UnsafeView")


class Call(NamedTuple):
    """A call of a loss function.

    Args:
        kind: the function: `cross_entropy`.
        site: where.
        first, last: autograd sequence numbers: of what was there before, and of what the call made.
    """

    kind: str
    site: Site
    first: int
    last: int


class RawSwapped(NamedTuple):
    """As `Swapped`, with numbers that are on the device, and the sequence number of what the call made."""

    kind: str
    site: Site
    target: str
    numbers: Tensor
    number: int


class LossesMade:
    """Remembers the calls of one update, and which of them were in no loss that was sent backward."""

    def __init__(self) -> None:
        self._calls: list[Call] = []
        self._swapped: list[RawSwapped] = []
        self._before: list[Call] = []  # of the update before, if its graphs were walked as well, and not used there
        self._used: set[Site] = set()
        self._unused: dict[Site, int] = {}
        self._leads: dict[Site, tuple[str, frozenset[int]]] = {}

    def add(self, kind: str, site: Site, args: tuple[Any, ...], result: Any) -> bool:
        """A loss function returned, with gradients on; whether calls from there were used by no loss until now."""
        if not isinstance(result, Tensor) or result.grad_fn is None or len(self._calls) >= _MOST:
            return False
        node: Any = result.grad_fn
        given = [each for each in args[:2] if isinstance(each, Tensor)]
        first = max([each.grad_fn._sequence_nr() for each in given if each.grad_fn is not None], default=-1)
        self._calls.append(Call(kind, site, first, node._sequence_nr()))
        if kind in _UNEQUAL and len(given) == 2 and given[1].requires_grad and not given[0].requires_grad:
            self._swap(self._calls[-1], *given)
        return site in self._unused

    def leads(self, kind: str, site: Site, leaves: Iterable[int]) -> None:
        """What the graph of an unused loss ends in, by `id`; the ids hold only within this update."""
        self._leads[site] = kind, frozenset(leaves)

    def site_of(self, node: Node) -> Site | None:
        """Where the call stands that made this node."""
        number = node._sequence_nr()
        fits = [call for call in self._calls if call.first < number <= call.last]
        return min(fits, key=lambda call: call.last - call.first).site if fits else None

    def sent(self, nodes: Iterable[Node]) -> tuple[RawSwapped, ...]:
        """A loss of these nodes is sent backward; the calls in it whose target alone has a graph."""
        if not self._calls and not self._before:
            return ()
        numbers = {node._sequence_nr() for node in nodes}
        for call in self._calls + self._before:
            if call.last in numbers:
                self._used.add(call.site)
                self._unused.pop(call.site, None)
        return tuple(each for each in self._swapped if each.number in numbers)

    def unused(self) -> dict[Site, tuple[str, int, frozenset[int]]]:
        """The calls of this update that were never used: function, in how many updates, and what they end in."""
        return {
            site: (kind, self._unused[site], ids) for site, (kind, ids) in self._leads.items() if site in self._unused
        }

    def closed(self, *, walking: bool) -> None:
        """The update is over; the graphs of the next one are walked, or not."""
        for call in self._before:
            if call.site not in self._used:
                self._unused[call.site] = self._unused.get(call.site, 0) + 1
        self._before = [call for call in self._calls if call.site not in self._used] if walking else []
        self._calls.clear()
        self._swapped.clear()
        self._leads.clear()

    def _swap(self, call: Call, first: Tensor, second: Tensor) -> None:
        if type(first) is not Tensor or not first.is_floating_point() or not 1 <= first.numel() <= _ELEMENTS:
            return
        if first.is_meta or torch._C._are_functorch_transforms_active():
            return
        if first.is_cuda and torch.cuda.is_current_stream_capturing():
            return
        with unseen(), torch.no_grad():
            binary = ((first == 0) | (first == 1)).all()
            numbers = torch.stack([first.min().float(), first.max().float(), binary.float()])
        self._swapped.append(RawSwapped(call.kind, call.site, _maker(second.grad_fn), numbers, call.last))


def told(raw: Iterable[RawSwapped]) -> tuple[Swapped, ...]:
    """In the words of checks; numbers on the device are read here."""
    found = []
    for each in raw:
        low, high, binary = each.numbers.tolist()
        found.append(Swapped(each.kind, each.site, each.target, low, high, bool(binary)))
    return tuple(found)


def _maker(node: Node) -> str:
    """The operation that made a tensor, views and casts left out."""
    for _ in range(_DEEPEST):
        if node is None or kind_of(node) not in _VIEWS or not node.next_functions:
            break
        node = node.next_functions[0][0]
    return "" if node is None else kind_of(node)
