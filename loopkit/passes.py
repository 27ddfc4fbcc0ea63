"""One pass over the training data in windows of batches, which can be left and taken up again in the middle.

A pass that is taken up begins with the random state the first one began with, so that a shuffling sampler deals the
same order; what was trained on is skipped at the sampler, and nothing of it is loaded; then the random state is set
to what it was when the pass was left.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from loopkit import chance
from loopkit.batching import batches
from loopkit.errors import UsageError


class Pass:
    """Where a pass over the training data stands.

    Attributes:
        batches: how many were trained on.
        over: there are no more: the loader has said so, and drawn what random numbers it draws at its end.
        ending: this was the last window, as far as the loader's length tells.
        evaluated: the evaluation that ends the epoch is done.
        updates: optimizer steps executed in this pass.
    """

    def __init__(self, loader: Any, accumulate: int) -> None:
        self.batches = 0
        self.over = self.ending = False
        self.evaluated = False
        self.updates = 0
        self._loader = loader
        self._accumulate = accumulate
        self._length = length(loader)
        self._random: chance.State | None = None  # when the pass began
        self._kept_workers = False
        self._stood: Any = None  # where a loader that keeps its place said it stood

    def windows(self, now: chance.State | None, *, tell: bool) -> Iterator[list[Any]]:
        """The batches that are left, in windows of `accumulate`; the last may hold fewer.

        Args:
            now: the random state when the pass was left, in one that is taken up again.
            tell: show batches that come from no DataLoader to the open run.

        Raises:
            UsageError: the loader is empty, or what was walked before cannot be walked again.
        """
        if self.over:
            if now is not None:
                chance.restore(now, self._loader)
            return
        iterator = self._begin(now, tell)
        while window := list(itertools.islice(iterator, self._accumulate)):
            self.batches += len(window)
            self.over = len(window) < self._accumulate
            self.ending = self.over or self.batches == self._length
            yield window
            if self.over:
                return
        self.over = True
        if not self.batches:
            raise UsageError(_nothing(self._loader))

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, as plain data."""
        state = {name: getattr(self, name) for name in ("batches", "over", "evaluated", "updates")}
        state |= {"random": self._random, "kept_workers": self._kept_workers}
        if _keeps_its_place(self._loader):
            state["loader"] = self._stood if self._stood is not None else self._loader.state_dict()
        return state

    def leave(self) -> None:
        """The pass is left, and may be taken up again."""
        if _keeps_its_place(self._loader):
            self._stood = self._loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where another pass stood, perhaps of another process."""
        for name in ("batches", "over", "evaluated", "updates"):
            setattr(self, name, state[name])
        self._random, self._kept_workers = state["random"], state["kept_workers"]
        self._stood = state.get("loader")

    def _begin(self, now: chance.State | None, tell: bool) -> Iterator[Any]:
        """An iterator over what is left."""
        loader = self._loader
        if self._random is None or now is None:
            if now is not None:
                chance.restore(now, loader)
            self._random = chance.states(loader)
            self._kept_workers = getattr(loader, "_iterator", None) is not None
            return iter(_seen(loader, tell))
        if _keeps_its_place(loader) and self._stood is not None:
            loader.load_state_dict(self._stood)
            self._stood = None
            iterator = iter(_seen(loader, tell))
        else:
            chance.restore(self._random, loader)
            iterator = self._skip(loader, tell)
        chance.restore(now, loader)
        return iterator

    def _skip(self, loader: Any, tell: bool) -> Iterator[Any]:
        if not _deals_indices(loader):
            iterator = iter(loader)
            for _ in itertools.islice(iterator, self.batches):
                pass
            return iter(_seen(_Rest(loader, iterator), tell))
        # Workers that were kept from an earlier epoch drew no seed when this pass began; new ones do.
        random = self._random
        again = (lambda: chance.restore(random, loader)) if self._kept_workers and random is not None else None
        return _without_first(loader, self.batches, again)


def length(loader: Any) -> int | None:
    """How many batches a pass has, where that is known."""
    if isinstance(loader, DataLoader) and isinstance(loader.dataset, IterableDataset):
        return None  # a guess
    try:
        return len(loader)
    except Exception:  # noqa: BLE001 - samplers are the user's code, and many have no length
        return None


class _Rest:
    """What is left of a loader that had to be walked: it stands for the loader, whose length it has."""

    def __init__(self, loader: Any, iterator: Iterator[Any]) -> None:
        self._loader, self._iterator = loader, iterator

    def __iter__(self) -> Iterator[Any]:
        return self._iterator

    def __len__(self) -> int:
        return len(self._loader)


class _Skipping:
    """A sampler without its first items, once: its next pass is whole.

    Args:
        sampler: the user's.
        count: items to leave out.
        before: called just before the first is drawn, or None.
    """

    def __init__(self, sampler: Iterable[Any], count: int, before: Callable[[], None] | None) -> None:
        self._sampler, self._count, self._before = sampler, count, before
        self._items: Iterator[Any] = iter(())
        self._skipped = False

    def __iter__(self) -> _Skipping:
        self._items = iter(self._sampler)
        return self

    def __next__(self) -> Any:
        self.skip()
        return next(self._items)

    def skip(self) -> None:
        """Leave them out now, if that was not done."""
        if self._skipped:
            return
        self._skipped = True
        before, self._before = self._before, None  # it holds the loader, whose workers would hold this
        if before is not None:
            before()
        for _ in itertools.islice(self._items, self._count):
            pass


def _without_first(loader: DataLoader[Any], count: int, before: Callable[[], None] | None) -> Iterator[Any]:
    """An iterator over a DataLoader that leaves out batches at its sampler."""
    held: dict[str, Any] = vars(loader)  # torch forbids to set these attributes, and reads them when it makes this
    held["_iterator"] = None  # kept workers have drawn ahead
    name = "sampler" if loader.batch_sampler is None else "batch_sampler"
    own = held[name]
    skipping = held[name] = _Skipping(own, count, before)
    try:
        iterator: Any = iter(loader)
    finally:
        held[name] = own
    skipping.skip()
    iterator._index_sampler = own  # kept workers begin their next pass with this
    return iter(iterator)


def _deals_indices(loader: Any) -> bool:
    """Whether what it loads is decided by a sampler, and its iterator is torch's own."""
    return (
        isinstance(loader, DataLoader)
        and not isinstance(loader.dataset, IterableDataset)
        and type(loader).__iter__ is DataLoader.__iter__
    )


def _keeps_its_place(loader: Any) -> bool:
    """Whether a loader says by itself where it stands, as torchdata's StatefulDataLoader does."""
    return callable(getattr(loader, "state_dict", None)) and callable(getattr(loader, "load_state_dict", None))


def _seen(loader: Any, tell: bool) -> Iterable[Any]:
    return batches(loader) if tell and not isinstance(loader, DataLoader) else loader


def _nothing(loader: Any) -> str:
    name = type(loader).__name__
    if isinstance(loader, Iterator):
        return (
            f"the training loader, a {name}, gave no batch: it is empty, or was walked before, and a generator "
            "can be walked only once; give a list, a DataLoader, or an object whose __iter__ begins anew"
        )
    return f"the training loader, a {name}, is empty: it gave no batch at all"
