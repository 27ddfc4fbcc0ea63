"""The events that the next update is expected to consist of, once a loop has settled: a ring, one link an event."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from loopkit.holdings import Mark, Owner
from loopkit.reading import FRESH
from loopkit.signature import BACKWARD, BATCH, FORWARD, SCHEDULER, STEP, ZERO_GRAD, Signature

if TYPE_CHECKING:
    from collections.abc import Callable

    from loopkit.callsite import Site
    from loopkit.history import RawEvent
    from loopkit.schedulers import Schedule

BACKED, STEPPED = 16, 17
"""The ends of a backward and of a step, beside the kinds of `signature.py`, which stand for their beginnings."""
PENDING = Mark(0, None, -1, -1)
"""Stands where the ledger has a backward that was not looked at; the real mark is made when somebody asks."""


class Expected:
    """One event.

    Attributes:
        kind: of the event, or `BACKED`, `STEPPED`.
        index: its place in the update.
        site: where it was the last time, if that is asked.
        key: `id` of the optimizer.
        event: what it adds to the record, but for its reading; None where it adds nothing.
        then: the event after it; after the last comes the first again.
        closes: it is the first: the update before it ends.
    """

    __slots__ = ("closes", "event", "index", "key", "kind", "site", "then")

    def __init__(
        self, kind: int, index: int = 0, site: Site | None = None, event: RawEvent | None = None, key: int = 0
    ) -> None:
        self.kind = kind
        self.index = index
        self.site = site
        self.event = event
        self.key = key
        self.then = self
        self.closes = index == 0


NOTHING = Expected(-1)
"""Nothing is expected: every event is read in full."""


class Settled:
    """An update that has repeated itself, and what of its repetitions is not written down yet.

    Attributes:
        signature: of the update.
        nodes: its events.
        first: the first of them, packed.
        clears_late: gradients are cleared in its midst; else there are none once its first event is past.
        owner: the only optimizer.
        schedule: what advances in it, if anything does.
        left: updates that may still close in it.
        done: that have.
        steps: of the run when it began.
        refs, moved: of the last step in it, its gradients, weakly, and autograd's sequence number at its end.
        position, rates: of the scheduler after its last advance in it.
    """

    def __init__(self, signature: Signature, nodes: list[Expected], owner: Owner, schedule: Schedule | None) -> None:
        self.signature = signature
        self.nodes = nodes
        self.owner = owner
        self.schedule = schedule
        self.first = nodes[0].event[0] if nodes[0].event is not None else -1
        self._places = {node.kind: node.index for node in nodes}
        self.clears_late = 0 < self.at(ZERO_GRAD) < self.at(BACKWARD)
        self.left = self.done = self.steps = self.moved = 0
        self.refs: list[Callable[[], Any]] = []
        self.position: Any = None
        self.rates: Any = None
        for node, following in zip(nodes, [*nodes[1:], nodes[0]], strict=True):
            node.then = following

    def at(self, kind: int) -> int:
        """The place of an event of this kind; -1 if there is none."""
        return self._places.get(kind, -1)

    def times(self, kind: int, passed: int) -> int:
        """How often it happened in the stretch, of whose last update so many events are past.

        The first event of the first update was read in full.
        """
        at = self.at(kind)
        return 0 if at < 0 else self.done + (0 < at < passed)

    def since(self, kind: int, other: int, passed: int) -> int:
        """How often it happened after the last event of another kind."""
        at, mark = self.at(kind), self.at(other)
        if mark < passed:
            return int(mark < at < passed)
        return int(at > mark) + int(0 <= at < passed)


def settled(signature: Signature, events: list[RawEvent], owner: Owner) -> Settled | None:
    """What may be expected of the next update after this one; None where it is not as plain as that.

    Plain is one forward, one backward and one step of the only optimizer, whose gradients were all new; clears to
    None, once; and at most one scheduler's advance.
    """
    optimizer = owner.optimizer()
    kinds = [code & 15 for code, _, _ in events]
    if optimizer is None or any(kinds.count(kind) != 1 for kind in (FORWARD, BACKWARD, STEP, ZERO_GRAD)):
        return None
    if len(kinds) != len({*kinds}) or not {*kinds} <= {BATCH, FORWARD, BACKWARD, STEP, SCHEDULER, ZERO_GRAD}:
        return None
    order = [kinds.index(kind) for kind in (FORWARD, BACKWARD, STEP)]
    if order != sorted(order) or order[1] < kinds.index(ZERO_GRAD) < order[2]:
        return None
    nodes: list[Expected] = []
    schedule: Schedule | None = None
    for event in events:
        code, site, raw = event
        kind = code & 15
        plain = kind | (site.bits if site is not None else 0)
        key = id(optimizer) if kind in (STEP, ZERO_GRAD) else 0
        if kind == STEP:
            plain |= owner.bits | FRESH << 12
        elif kind == SCHEDULER:
            schedule = raw[0]
            plain |= raw[0].bits
            if raw[0].owner is not owner:
                return None
        if code != plain or (kind == BACKWARD and raw is not None):
            return None
        nodes += _nodes(kind, len(nodes), event if raw is None else (code, site, None), key)
    return Settled(signature, nodes, owner, schedule)


def _nodes(kind: int, index: int, event: RawEvent, key: int) -> Iterator[Expected]:
    site = event[1]
    if kind == BACKWARD:
        yield Expected(kind, index, site, event)
        yield Expected(BACKED, index + 1, site)
    elif kind == STEP:  # which is no event before it has ended
        yield Expected(kind, index, site, key=key)
        yield Expected(STEPPED, index + 1, site, event, key)
    else:
        yield Expected(kind, index, site, event, key)
