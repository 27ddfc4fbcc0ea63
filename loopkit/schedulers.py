"""Which scheduler of the run this is, and which optimizer it drives."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch

from loopkit.holdings import Owner
from loopkit.ledger import Ledger

Known = tuple[Callable[[], object], int, Owner | None]


class Schedulers:
    """Numbers schedulers as they are met, and forgets those that are gone."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._known: dict[int, Known] = {}

    def known(self, scheduler: Any) -> Known:
        """A weak reference to it, its number, and the columns of the optimizer it drives, if that is one."""
        found = self._known.get(id(scheduler))
        if found is not None and found[0]() is scheduler:
            return found
        for key in [key for key, (alive, _, _) in self._known.items() if alive() is None]:
            del self._known[key]
        optimizer = driven_by(scheduler)
        owner = self._ledger.owner(optimizer) if optimizer is not None else None
        made = self._known[id(scheduler)] = (weakref.ref(scheduler), len(self._known), owner)
        return made


def driven_by(scheduler: Any) -> torch.optim.Optimizer | None:
    """The optimizer a scheduler drives, out of the wrappers frameworks put around it."""
    optimizer = getattr(scheduler, "optimizer", None)
    for _ in range(4):
        inner = getattr(optimizer, "optimizer", None)
        if not isinstance(inner, torch.optim.Optimizer):
            break
        optimizer = inner
    return optimizer if isinstance(optimizer, torch.optim.Optimizer) else None
