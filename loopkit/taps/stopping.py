"""Ending a training loop softly: once a plugin has asked for it, loaders that train have no more batches.

The script then goes on behind its loop, and every later pass over such a loader ends at once. Nothing is installed
until then. Some loops cannot be ended so, and are left to run on: one without a loader, one whose generator begins
the loader anew for ever, and one that calls `next()` itself, where the end of an iterator might be an error.
"""

from __future__ import annotations

from threading import get_ident
from types import FrameType
from typing import Any

import torch
from torch.utils.data import dataloader

from loopkit.run import Run
from loopkit.taps.consumer import asks_by_next, consumer, is_generator
from loopkit.taps.patch import Cell, Handle, opaque

_EMPTY = 1000
"""So many passes without a batch, and with nothing between them: no loop over epochs is like that."""
_is_compiling = torch.compiler.is_dynamo_compiling


def install(run: Run) -> Handle:
    """Be ready to end loaders."""
    return _Stopper(run)


class _Stopper:
    """Ends the iterators of loaders that train, from the moment a plugin asks for it."""

    def __init__(self, run: Run) -> None:
        self._cell = Cell(run)
        self._patched: list[tuple[type[Any], Any, Any]] = []
        self._passes_before = 0
        self._consumer: FrameType | None = None
        self._empty = 0
        self._happened = 0
        run.on_stop = self._begin
        if run.stopping is not None and run.stops_softly:  # the taps were installed anew meanwhile
            self._begin()

    def undo(self) -> None:
        """Let loaders have their batches again."""
        run, self._cell.run = self._cell.run, None
        if run is not None:
            run.on_stop = None
        self._consumer = None
        while self._patched:
            cls, own, ours = self._patched.pop()
            if vars(cls).get("_next_data") is ours:
                cls._next_data = own

    def _begin(self) -> None:
        run = self._cell.run
        if run is None or run.has_loop:
            return
        sources = run.recorder.sources
        self._passes_before = sources.begun
        if run.recorder.backwards and not sources.any_trains():
            run.runs_on("this loop has no DataLoader")
            return
        run.say(f"stopping: {run.stopping}")
        for cls in (dataloader._SingleProcessDataLoaderIter, dataloader._MultiProcessingDataLoaderIter):
            own = vars(cls)["_next_data"]
            ours = _around(own, self._cell, self)
            cls._next_data = ours  # type: ignore[method-assign]
            self._patched.append((cls, own, ours))

    def ends(self, run: Run, iterator: Any) -> bool:
        """Whether this iterator has no more batches."""
        sources = run.recorder.sources
        if run.ran_on or not sources.trains(iterator):
            return False
        asking = consumer()
        why = ""
        if asking is not None and asks_by_next(asking):
            why = "its code calls next() on the DataLoader's iterator, and may not expect that it ends"
        elif sources.number(iterator) > self._passes_before:  # a later pass, which might be begun again and again
            why = self._endless(run, asking)
        if why:
            run.runs_on(why)
            return False
        self._consumer = asking if asking is not None and is_generator(asking) else None
        return True

    def _endless(self, run: Run, asking: FrameType | None) -> str:
        """Why no pass over a loader can end the loop; "" when one can."""
        if asking is not None and asking is self._consumer:
            return "its generator begins the DataLoader anew for ever"
        recorder = run.recorder
        happened = recorder.forwards + recorder.evaluations + recorder.backwards
        self._empty = self._empty + 1 if happened == self._happened else 0
        self._happened = happened
        return "its code begins the DataLoader anew for ever" if self._empty > _EMPTY else ""


def _around(own: Any, cell: Cell, stopper: _Stopper) -> Any:
    def _next_data(self: Any) -> Any:
        if _is_compiling():
            return own(self)
        run = cell.run
        if run is not None and run.thread == get_ident() and stopper.ends(run, self):
            raise StopIteration
        return own(self)

    return opaque(_next_data, callees=False)


opaque(_Stopper.ends, callees=True)
