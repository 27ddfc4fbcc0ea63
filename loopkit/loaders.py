"""Which loader of the run this is, and how many batches it hands out an epoch."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

Known = tuple[Callable[[], object], int, int | None]


class Loaders:
    """Numbers loaders as they are met, and forgets those that are gone."""

    def __init__(self) -> None:
        self._known: dict[int, Known] = {}

    def known(self, loader: Any) -> Known:
        """A weak reference to it, its number, and its length in batches where it has one."""
        found = self._known.get(id(loader))
        if found is not None and found[0]() is loader:
            return found
        for key in [key for key, (alive, _, _) in self._known.items() if alive() is None]:
            del self._known[key]
        taken = {number for _, number, _ in self._known.values()}
        number = next(n for n in range(len(taken) + 1) if n not in taken)
        try:
            alive: Callable[[], object] = weakref.ref(loader)
        except TypeError:  # a list: it has no weak references, and is met anew each time
            return _gone, number, _length(loader)
        made = self._known[id(loader)] = (alive, number, _length(loader))
        return made


def _length(loader: Any) -> int | None:
    # A DataLoader over an iterable dataset guesses its length, and warns when the guess was wrong.
    if isinstance(loader, DataLoader) and isinstance(loader.dataset, IterableDataset):
        return None
    with suppress(Exception):  # samplers are the user's code, and many have no length
        return len(loader)
    return None


def _gone() -> None:
    """Stands where a weak reference would."""
