"""What was clipped: how many parameters of which optimizer, and whether they held anything new by then.

Whose parameters they are is looked up once and remembered for each line that clips, as long as the number of
parameters, the first and the last of them, and the optimizers are the same.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from loopkit.unseen import unseen
from loopkit.update import Clipped, ClipReading

if TYPE_CHECKING:
    from torch import Tensor

    from loopkit.callsite import Site
    from loopkit.holdings import Owner
    from loopkit.ledger import Ledger

NOTHING_FRESH, SOME_USED, NOBODYS = 1, 2, 4
"""Bits of a clip's shape in a signature: nothing it covers is new; something was used by a step; no optimizer's."""

_KEPT = 64
"""Sets of parameters that are remembered."""


class RawClip(NamedTuple):
    """A clip before anybody asked to know."""

    given: int | None
    unowned: int
    owners: tuple[tuple[Owner, int, int], ...]  # with the number of parameters and the shape
    limit: float
    norm: Any


class _Covered(NamedTuple):
    given: int | None
    first: Callable[[], object]
    last: Callable[[], object]
    known: int
    unowned: int
    owners: tuple[tuple[Owner, int], ...]


class Clips:
    """Reads clips."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._covered: dict[tuple[int, int, int], _Covered] = {}

    def read(
        self, site: Site, parameters: list[Tensor] | None, limit: float, norm: Any, versions: list[list[int]]
    ) -> tuple[RawClip, int]:
        """What this clip covers, and its shape.

        Costs about 1 µs where the same parameters were clipped here before.

        Args:
            site, limit, norm: of the clip.
            parameters: what was clipped; None for a generator, which is used up by now.
            versions: then, of each optimizer, how often its gradients had been changed before.
        """
        covered = self._changed(versions) if parameters is None else self._cover(site, parameters)
        owners = tuple([(owner, count, _shape(owner)) for owner, count in covered.owners])
        shape = 0 if owners else NOBODYS
        if owners and all(each & NOTHING_FRESH for _, _, each in owners):
            shape = NOTHING_FRESH
        for _, _, each in owners:
            shape |= each & SOME_USED
        return RawClip(covered.given, covered.unowned, owners, limit, norm), shape

    def _changed(self, versions: list[list[int]]) -> _Covered:
        """What a clip of an unknown set has changed in place; nothing may be there to change."""
        owners = self._ledger.owners()
        changed = []
        for owner, before in zip(owners, versions, strict=True):
            count = sum([a != b for a, b in zip(owner.versions, before, strict=False)])
            if count or len(owners) == 1:  # the only one there is: whose else
                changed.append((owner, count))
        return _Covered(None, _nothing, _nothing, 0, 0, tuple(changed))

    def _cover(self, site: Site, parameters: list[Tensor]) -> _Covered:
        known = sum([len(owner.versions) for owner in self._ledger.owners()])
        count = len(parameters)
        key = site.number, count, id(parameters[0]) if count else 0
        found = self._covered.get(key)
        if (
            found is not None
            and found.known == known
            and (not count or (found.first() is parameters[0] and found.last() is parameters[-1]))
            and None not in [owner.optimizer() for owner, _ in found.owners]
        ):
            return found
        if len(self._covered) >= _KEPT:
            self._covered.clear()
        owned: Counter[Owner] = Counter()
        whose = {each: owner for owner in self._ledger.owners() for each in owner.ids}
        given = {id(each) for each in parameters}
        for each in given & whose.keys():
            owned[whose[each]] += 1
        first = weakref.ref(parameters[0]) if count else _nothing
        last = weakref.ref(parameters[-1]) if count else _nothing
        unowned = len(given) - sum(owned.values())
        made = self._covered[key] = _Covered(count, first, last, known, unowned, tuple(owned.items()))
        return made


def _nothing() -> None:
    """Stands where a weak reference would."""


def _shape(owner: Owner) -> int:
    """What the gradients of an optimizer look like at a clip."""
    if owner.column is None:
        state = owner.uniform
        assert state is not None
        return (not state.fresh) | bool(state.used) << 1
    shape = NOTHING_FRESH
    for state in owner.column:
        if state.fresh:
            shape &= ~NOTHING_FRESH
        if state.used:
            shape |= SOME_USED
    return shape


def told(raw: RawClip) -> ClipReading:
    """A raw reading in the words of checks; the norm is read here."""
    return ClipReading(
        given=raw.given,
        unowned=raw.unowned,
        owners=tuple(
            Clipped(owner.label, owner.number, count, not shape & NOTHING_FRESH, bool(shape & SOME_USED))
            for owner, count, shape in raw.owners
        ),
        limit=raw.limit,
        norm=_number(raw.norm),
    )


def _number(norm: Any) -> float | None:
    """The total norm. None where there is none, or where asking for it might start a collective or fail."""
    if not isinstance(norm, torch.Tensor):
        return float(norm) if isinstance(norm, (int, float)) else None
    if type(norm) is not torch.Tensor or norm.numel() != 1 or norm.is_meta:
        return None
    with unseen():
        return float(norm.detach())
