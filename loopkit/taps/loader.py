"""Iterating a `torch.utils.data.DataLoader` → `batch_loaded`; each new epoch is put on record.

Heard at the inner `_next_data` of its two kinds of iterator: a wrapper around `__next__` itself would stand in the
line of frames that torch's warnings count (`stacklevel=2`), and they would name our file instead of the user's.
"""

from __future__ import annotations

from typing import Any

from torch.utils.data import dataloader

from loopkit.recorder import Recorder
from loopkit.run import Run
from loopkit.taps import stopping
from loopkit.taps.patch import Handle, Tap, Taps

_PASS = 43  # for the cache of call sites
EVALUATIONS = frozenset({"evaluation_started", "evaluation_finished", "metric_logged"})
"""Hooks for whose sake evaluations are inferred."""


def install(run: Run) -> Handle:
    """Listen to loaders, and remember which loader an iterator came from."""
    run.recorder.tracks = run.stops_softly or bool(EVALUATIONS & run.heard)

    def batches(iterator: type[Any]) -> Handle:
        if "batch_loaded" in run.heard:
            return Tap(iterator, "_next_data", run, after=_loaded)
        return Tap(iterator, "_next_data", run, after=Recorder.batch, to_recorder=True)

    return Taps(
        Tap(dataloader.DataLoader, "_get_iterator", run, after=_started),
        Tap(dataloader._MultiProcessingDataLoaderIter, "_reset", run, after=_restarted),
        batches(dataloader._SingleProcessDataLoaderIter),
        batches(dataloader._MultiProcessingDataLoaderIter),
        stopping.install(run),
    )


def _started(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any], iterator: Any) -> None:
    _pass_began(run, iterator, args[0])


def _restarted(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """With persistent workers one iterator serves every epoch; its constructor calls this too."""
    if not (kwargs.get("first_iter") or (len(args) > 2 and args[2])):
        _pass_began(run, args[0], args[1])


def _pass_began(run: Run, iterator: Any, loader: Any) -> None:
    run.recorder.pass_began(iterator, loader)
    run.recorder.epoch_began(loader)
    recorder = run.recorder
    if recorder.replicas.wraps:
        site = recorder.replicas.batches_at = recorder.sites.here(_PASS)
        recorder.replicas.shards.began(loader, site, recorder)


def _loaded(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any], batch: Any) -> None:
    run.recorder.batch(args)
    run.emit("batch_loaded", batch=batch, loader=run.recorder.sources.loader(args[0]))
