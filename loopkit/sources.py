"""Which loaders train: those after whose batch a backward came. Known so that training ones alone can be ended."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

_KNOWN = 1000
"""Sources remembered: a script that makes a loader for each batch must not grow without bound."""
Key = tuple[Any, ...]


class Over(NamedTuple):
    """What an iterator passes over.

    Args:
        iterator: weakly.
        loader: weakly; None for a list, of which there are no weak references.
        key: the loader's `id`; of a list, also the line that passes over it.
        number: of this pass, among all.
    """

    iterator: Callable[[], object]
    loader: Callable[[], object] | None
    key: Key
    number: int


class Pass:
    """Stands for the iterator of what is no DataLoader."""


class Sources:
    """Remembers the passes over loaders, and which of the loaders train.

    Iterators are known by their `id`, also when they are gone: all batches may be taken before the first is used.

    Attributes:
        begun: passes, over all loaders.
        training: passes over loaders that train, but for the first of each.
    """

    def __init__(self) -> None:
        self._over: dict[int, Over] = {}
        self._trained: dict[Key, Callable[[], object] | None] = {}
        self.begun = 0
        self.training = 0

    def began(self, iterator: object, loader: object, line: Key = ()) -> None:
        """An iterator over a loader was made.

        Args:
            iterator: anything that can be referenced weakly and lives as long as the pass.
            loader: what it passes over.
            line: of the code that does, as code object and offset; asked for where `loader` may be a list.
        """
        self.begun += 1
        self.training += self.trains_on(loader, line)
        self._over.pop(id(iterator), None)
        if len(self._over) >= _KNOWN:
            del self._over[next(iter(self._over))]
        alive, key = _known_by(loader, line)
        self._over[id(iterator)] = Over(weakref.ref(iterator), alive, key, self.begun)

    def loader(self, iterator: object) -> Any:
        """The loader that an iterator passes over; None when it is gone or not known."""
        over = self._of(iterator)
        return over.loader() if over is not None and over.loader is not None else None

    def number(self, iterator: object) -> int:
        """Which of all passes this iterator's is, from 1; 0 when it is not known."""
        over = self._of(iterator)
        return over.number if over is not None else 0

    def number_from(self, source: int) -> int:
        """The same, of an iterator known by its `id`."""
        over = self._over.get(source)
        return over.number if over is not None else 0

    def key(self, source: int) -> Key:
        """What tells the loader of the iterator with this `id` from others; () when it is not known."""
        over = self._over.get(source)
        return over.key if over is not None else ()

    def trains(self, iterator: object) -> bool:
        """Whether this iterator passes over a loader that trains."""
        over = self._of(iterator)
        return over is not None and self._is_training(over.loader, over.key)

    def trains_from(self, source: int) -> bool:
        """The same, of an iterator known by its `id`."""
        over = self._over.get(source)
        return over is not None and self._is_training(over.loader, over.key)

    def trains_on(self, loader: object, line: Key = ()) -> bool:
        """Whether a pass over this loader, from this line, is one of training."""
        return bool(self._trained) and self._is_training(*_known_by(loader, line))

    def learn(self, source: int) -> None:
        """A backward came after a batch of the iterator with this `id`."""
        over = self._over.get(source)
        if over is not None:
            self._trained[over.key] = over.loader

    def has_trained(self, key: Key) -> bool:
        """Whether a backward came after a batch of the loader with this key."""
        return key in self._trained

    def any_trains(self) -> bool:
        """Whether some loader was seen to train."""
        return bool(self._trained)

    def _of(self, iterator: object) -> Over | None:
        over = self._over.get(id(iterator))
        return over if over is not None and over.iterator() is iterator else None

    def _is_training(self, loader: Callable[[], object] | None, key: Key) -> bool:
        if key not in self._trained:
            return False
        trained = self._trained[key]
        return trained is None or (loader is not None and trained() is loader())


def _known_by(loader: object, line: Key) -> tuple[Callable[[], object] | None, Key]:
    try:
        return weakref.ref(loader), (id(loader),)
    except TypeError:  # a list: told apart by the line too, since an `id` may come again
        return None, (id(loader), *line)
