"""`batches(iterable)`: make batches that come from no DataLoader seen."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sized
from typing import Generic, TypeVar

from loopkit.watching import current_run

Batch = TypeVar("Batch")


class Batches(Generic[Batch]):
    """An iterable that tells the open run, if there is one, of each batch. Its length is that of what it wraps."""

    def __init__(self, iterable: Iterable[Batch]) -> None:
        self.iterable = iterable

    def __iter__(self) -> Iterator[Batch]:
        run = current_run()
        if run is not None and run.listens() and not _is_loader(self.iterable):
            run.guarded(functools.partial(run.recorder.epoch_began, self.iterable))
        for batch in self.iterable:
            run = current_run()
            # A DataLoader's batches are events already, whatever stands around it.
            if run is not None and run.listens() and not _is_loader(self.iterable):
                run.guarded(run.recorder.batch)
                run.emit("batch_loaded", batch=batch, loader=self.iterable)
            yield batch

    def __len__(self) -> int:
        if not isinstance(self.iterable, Sized):
            raise TypeError(f"{type(self.iterable).__name__} has no length, so batches() of it has none")
        return len(self.iterable)


def batches(iterable: Iterable[Batch]) -> Batches[Batch]:
    """Show a list, a generator or any other iterable of batches to loopkit; without a watch it does nothing."""
    return Batches(iterable)


def _is_loader(iterable: object) -> bool:
    from torch.utils.data import DataLoader

    return isinstance(iterable, (DataLoader, Batches))
