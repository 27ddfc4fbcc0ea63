"""Graphs of losses that are still alive long after their backward.

A node of a graph cannot be referenced weakly, and the tensor that was sent backward may be gone while a sum of losses
keeps its graph. But each node has a dict of its own, `metadata`, which dies with it: a mark in there can be. The node
marked is the first one that the forward made: whatever is kept of the graph, above it, keeps it.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from loopkit.graphwalk import Walk

_MOST = 64
"""Marks kept."""
_KEY = "loopkit"
_LEAF = "torch::autograd::AccumulateGrad"


class KeptGraphs(NamedTuple):
    """What has become of the graphs that were looked at.

    Args:
        alive: how many updates there are of which a graph is still there, those of the last two updates left out.
        looked_at: of how many updates since the oldest of them graphs were looked at.
        span: updates since then.
        nodes: how many nodes the oldest had.
    """

    alive: int
    looked_at: int
    span: int
    nodes: int


class _Mark:
    __slots__ = ("__weakref__",)


class Kept:
    """Marks the graphs of walked losses."""

    def __init__(self) -> None:
        self._marks: deque[tuple[int, int, Callable[[], object]]] = deque(maxlen=_MOST)
        self._last = (-1, 0, False)  # the number of the last backward, when its loss was made, whether it was kept

    def sent(self, walk: Walk, update: int, backward: int, *, retained: bool) -> bool:
        """A loss of this update is sent backward, the run's `backward`-th. Returns whether the backward just before
        had kept its graph, and this one's was made wholly after it.
        """
        first = min((node for node in walk.nodes if node.name() != _LEAF), key=_number, default=None)
        before, made_at, kept = self._last
        self._last = backward, walk.made_at, retained
        is_spare = kept and before == backward - 1 and first is not None and _number(first) > made_at
        metadata = getattr(first, "metadata", None)
        if isinstance(metadata, dict):
            mark = metadata[_KEY] = _Mark()
            self._marks.append((update, len(walk.nodes), weakref.ref(mark)))
        return is_spare

    def told(self, update: int) -> KeptGraphs:
        """Which of them are alive after so many updates."""
        old = [(number, nodes, known() is not None) for number, nodes, known in self._marks if number < update - 1]
        alive = {number for number, _, is_alive in old if is_alive}
        if not alive:
            return KeptGraphs(0, 0, 0, 0)
        oldest = min(alive)
        looked_at = {number for number, _, _ in old if number >= oldest}
        nodes = next(nodes for number, nodes, is_alive in old if number == oldest and is_alive)
        return KeptGraphs(len(alive), len(looked_at), update - oldest, nodes)


def _number(node: object) -> int:
    number: int = node._sequence_nr()  # type: ignore[attr-defined]
    return number
