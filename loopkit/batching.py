"""`batches(iterable)`: make batches that come from no DataLoader seen."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Iterator, Sized
from typing import Generic, TypeVar

from loopkit.run import Run
from loopkit.sources import Pass
from loopkit.watching import current_run

Batch = TypeVar("Batch")


class Batches(Generic[Batch]):
    """An iterable that tells the open run, if there is one, of each batch. Its length is that of what it wraps."""

    def __init__(self, iterable: Iterable[Batch]) -> None:
        self.iterable = iterable

    def __iter__(self) -> Iterator[Batch]:
        if _is_loader(self.iterable):  # its batches are events already, whatever stands around it
            yield from self.iterable
            return
        line, this_pass = _line(), Pass()
        run = current_run()
        if run is not None and run.listens():
            run.guarded(functools.partial(_pass_began, run, this_pass, self.iterable, line))
            run.emit("before_batch", loader=self.iterable)
        for batch in self.iterable:
            run = current_run()
            if run is not None and run.listens():
                if run.stopping is not None and not run.has_loop and run.recorder.sources.trains(this_pass):
                    return
                run.guarded(functools.partial(run.recorder.batch, (this_pass,), None, batch))
                run.emit("batch_loaded", batch=batch, loader=self.iterable)
            yield batch
            run = current_run()
            if run is not None and "before_batch" in run.heard and run.listens():
                run.emit("before_batch", loader=self.iterable)

    def __len__(self) -> int:
        if not isinstance(self.iterable, Sized):
            raise TypeError(f"{type(self.iterable).__name__} has no length, so batches() of it has none")
        return len(self.iterable)


def batches(iterable: Iterable[Batch]) -> Batches[Batch]:
    """Show a list, a generator or any other iterable of batches to loopkit; without a watch it does nothing."""
    return Batches(iterable)


def _pass_began(run: Run, this_pass: Pass, iterable: object, line: tuple[object, ...]) -> None:
    run.recorder.pass_began(this_pass, iterable, line)
    run.recorder.epoch_began(iterable)


def _line() -> tuple[object, ...]:
    """Where the code that takes batches stands, beyond this function and the generator that calls it."""
    frame = sys._getframe(2)
    return frame.f_code, frame.f_lasti


def _is_loader(iterable: object) -> bool:
    from torch.utils.data import DataLoader

    return isinstance(iterable, (DataLoader, Batches))
