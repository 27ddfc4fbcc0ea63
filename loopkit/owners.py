"""Which optimizers there are, and the columns of each in the gradient ledger."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from loopkit.holdings import Owner
from loopkit.lineage import Life, Line
from loopkit.looking import Now, adopt

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from loopkit.callsite import Site

_LINES = 1_000  # places that construct optimizers
_ONCE_OWNED = 100_000  # ids remembered of parameters whose optimizer has died; an address used again errs to silence


class Owners:
    """The optimizers that are alive, and what is remembered of those that are not.

    Attributes:
        known: the columns of each optimizer that is alive, by its `id`; an id may be another's since: ask `owner`.
        once_owned: parameters of optimizers that have died, by `id`.
        lines: the optimizers that each place in the program constructs.
        now: the ledger's clock.
    """

    def __init__(self) -> None:
        self.now = Now()
        self.known: dict[int, Owner] = {}
        self.once_owned: set[int] = set()
        self.lines: dict[Site, Line] = {}
        self._aliases: dict[int, tuple[weakref.ref[Optimizer], Owner]] = {}

    def settle(self) -> None:
        """Bring the columns up to date, where a look was put off."""

    def met_or_gone(self) -> None:
        """There is one more optimizer, or one less."""

    def owner(self, optimizer: Optimizer) -> Owner:
        """The columns of `optimizer`, made on first sight; the hot path looks into `known` itself first."""
        key = id(optimizer)
        found = self.known.get(key)
        if found is not None and found.optimizer() is optimizer:
            return found
        alias = self._aliases.get(key)
        if alias is not None and alias[0]() is optimizer:
            return alias[1]
        return self._meet(optimizer)

    def _meet(self, optimizer: Optimizer) -> Owner:
        key = id(optimizer)
        owners, aliases = self.known, self._aliases
        for owner in list(owners.values()):
            # Lightning's manual optimization, SAM and Lookahead put an optimizer around an optimizer: one set of
            # groups, two objects, of which one clears and the other steps.
            groups = getattr(owner.optimizer(), "param_groups", None)
            if groups is not None and groups is getattr(optimizer, "param_groups", None):
                aliases[key] = weakref.ref(optimizer, lambda _, key=key: aliases.pop(key, None)), owner  # type: ignore[misc]
                return owner

        def forget(reference: object, room: int = _ONCE_OWNED) -> None:  # at exit, globals are gone
            if key in owners and owners[key].optimizer is reference:
                if len(self.once_owned) < room:
                    self.once_owned.update(owners[key].ids)
                del owners[key]
                self.met_or_gone()

        self.met_or_gone()
        taken = {owner.number for owner in list(owners.values())}
        number = next(n for n in range(len(taken) + 1) if n not in taken)
        made = owners[key] = Owner(optimizer, number, forget)
        adopt(made, self.now)
        return made

    def constructed(self, optimizer: Optimizer, site: Site, passes: tuple[int, int]) -> None:
        """An optimizer's constructor runs at `site`; `Life` says what `passes` are."""
        owner = self.owner(optimizer)
        if owner.life is None and (site in self.lines or len(self.lines) < _LINES):
            owner.life = Life(self.lines.setdefault(site, Line(site)), passes)

    def knows(self, optimizer: Optimizer) -> bool:
        """Whether its columns were made before."""
        return id(optimizer) in self.known or id(optimizer) in self._aliases

    def owners(self) -> list[Owner]:
        """The optimizers that are alive."""
        self.settle()
        return list(self.known.values())

    def numbered(self, number: int) -> Owner | None:
        """The optimizer of that number, if it is alive."""
        return next((owner for owner in self.owners() if owner.number == number), None)
