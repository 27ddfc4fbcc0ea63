"""Which loaders train: those after whose batch a backward came. Known so that training ones alone can be ended."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple


class Over(NamedTuple):
    """What an iterator passes over.

    Args:
        alive: a weak reference to the loader; None for a list, of which there are none.
        key: the loader's `id`; of a list, also the line that passes over it.
        number: of this pass, among all.
    """

    alive: Callable[[], object] | None
    key: tuple[Any, ...]
    number: int


class Pass:
    """Stands for the iterator of what is no DataLoader."""


class Passes:
    """Remembers the passes over loaders, and which of the loaders train.

    Attributes:
        begun: passes, over all loaders.
        training: passes over loaders that train, but for the first of each.
    """

    def __init__(self) -> None:
        self._over: weakref.WeakKeyDictionary[Any, Over] = weakref.WeakKeyDictionary()
        self._trained: dict[tuple[Any, ...], Callable[[], object] | None] = {}
        self.begun = 0
        self.training = 0

    def began(self, iterator: object, loader: object, line: tuple[Any, ...] = ()) -> None:
        """An iterator over a loader was made.

        Args:
            iterator: anything that can be referenced weakly and lives as long as the pass.
            loader: what it passes over.
            line: of the code that does, as code object and offset; asked for where `loader` may be a list.
        """
        self.begun += 1
        try:
            over = Over(weakref.ref(loader), (id(loader),), self.begun)
        except TypeError:  # a list: told apart by the line too, since an `id` may come again
            over = Over(None, (id(loader), *line), self.begun)
        self._over[iterator] = over
        self.training += self._is_training(over)

    def loader(self, iterator: object) -> Any:
        """The loader that an iterator passes over; None when it is gone or not known."""
        over = self._over.get(iterator)
        return over.alive() if over is not None and over.alive is not None else None

    def number(self, iterator: object) -> int:
        """Which of all passes this iterator's is, from 1; 0 when it is not known."""
        over = self._over.get(iterator)
        return over.number if over is not None else 0

    def trains(self, iterator: object) -> bool:
        """Whether this iterator passes over a loader that trains."""
        over = self._over.get(iterator)
        return over is not None and self._is_training(over)

    def is_training(self, source: int) -> bool:
        """The same, of an iterator known by its `id`."""
        return any(id(each) == source and self._is_training(over) for each, over in list(self._over.items()))

    def key(self, source: int) -> tuple[Any, ...]:
        """What tells the loader of the iterator with this `id` from others; () when it is not known."""
        return next((over.key for each, over in list(self._over.items()) if id(each) == source), ())

    def learn(self, source: int) -> None:
        """A backward came after a batch of the iterator with this `id`."""
        for iterator, over in list(self._over.items()):
            if id(iterator) == source:
                self._trained[over.key] = over.alive

    def any_trains(self) -> bool:
        """Whether some loader was seen to train."""
        return bool(self._trained)

    def _is_training(self, over: Over) -> bool:
        if over.key not in self._trained:
            return False
        alive = self._trained[over.key]
        return alive is None or (over.alive is not None and alive() is over.alive())
