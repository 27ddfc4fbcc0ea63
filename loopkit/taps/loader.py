"""Iterating a `torch.utils.data.DataLoader` → `batch_loaded`; each new epoch is put on record.

Heard at the inner `_next_data` of its two kinds of iterator: a wrapper around `__next__` itself would stand in the
line of frames that torch's warnings count (`stacklevel=2`), and they would name our file instead of the user's.
"""

from __future__ import annotations

import weakref
from typing import Any

from torch.utils.data import dataloader

from loopkit.recorder import Recorder
from loopkit.run import Run
from loopkit.taps.patch import Handle, Tap, Taps


def install(run: Run) -> Handle:
    """Listen to loaders, and remember which loader an iterator came from."""
    loaders: weakref.WeakKeyDictionary[Any, weakref.ref[Any]] = weakref.WeakKeyDictionary()

    def started(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any], iterator: Any) -> None:
        loaders[iterator] = weakref.ref(args[0])
        run.recorder.epoch_began(args[0])

    def restarted(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """With persistent workers one iterator serves every epoch; its constructor calls this too."""
        if not (kwargs.get("first_iter") or (len(args) > 2 and args[2])):
            run.recorder.epoch_began(args[1])

    def loaded(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any], batch: Any) -> None:
        run.recorder.batch()
        loader = loaders.get(args[0])
        run.emit("batch_loaded", batch=batch, loader=loader() if loader else None)

    def batches(iterator: type[Any]) -> Handle:
        if "batch_loaded" in run.heard:
            return Tap(iterator, "_next_data", run, after=loaded)
        return Tap(iterator, "_next_data", run, after=Recorder.batch, to_recorder=True)

    return Taps(
        Tap(dataloader.DataLoader, "_get_iterator", run, after=started),
        Tap(dataloader._MultiProcessingDataLoaderIter, "_reset", run, after=restarted),
        batches(dataloader._SingleProcessDataLoaderIter),
        batches(dataloader._MultiProcessingDataLoaderIter),
    )
