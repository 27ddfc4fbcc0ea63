"""Iterating a `torch.utils.data.DataLoader` → `before_batch`, `batch_loaded`, `loader_started`, `loader_exhausted`.

Heard at the inner `_next_data` of its two kinds of iterator: a wrapper around `__next__` itself would stand in the
line of frames that torch's warnings count (`stacklevel=2`), and they would name our file instead of the user's.
"""

from __future__ import annotations

import functools
from typing import Any

from torch.utils.data import IterableDataset, dataloader

from loopkit.recorder import Recorder
from loopkit.run import Run
from loopkit.taps import stopping
from loopkit.taps.consumer import asked_by
from loopkit.taps.patch import Handle, Tap, Taps, ignore
from loopkit.twins import Twins

EVALUATIONS = frozenset({"evaluation_started", "evaluation_finished", "metric_logged"})
"""Hooks for whose sake evaluations are inferred."""
_PASSES = frozenset({"loader_started", "loader_exhausted"})
_BATCHES = frozenset({"before_batch", "batch_loaded"})
_MADE, _ASKED, _SHARED = 40, 41, 53
"""Stand for these calls among those whose last site is remembered; events of an update have smaller numbers."""


def install(run: Run) -> Handle:
    """Listen to loaders, and remember which loader an iterator came from."""
    run.recorder.tracks = run.stops_softly or bool((EVALUATIONS | _PASSES) & run.heard)

    def batches(iterator: type[Any]) -> Handle:
        if _BATCHES & run.heard:
            before = _asked if "before_batch" in run.heard else ignore
            return Tap(iterator, "_next_data", run, before, _loaded, _failed)
        return Tap(iterator, "_next_data", run, after=Recorder.batch, failed=Recorder.no_batch, to_recorder=True)

    return Taps(
        _Ends(run),
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
        site = recorder.replicas.batches_at = recorder.sites.here(_SHARED)
        recorder.replicas.shards.began(loader, site, recorder)
    if _PASSES & run.heard:
        site = run.recorder.sites.here(_MADE, brief=True)
        feed = run.recorder.feeds.began(iterator, loader, site, run.recorder.ledger.owners())
        workers = getattr(loader, "num_workers", 0)
        if workers > 1 and isinstance(loader.dataset, IterableDataset):
            run.recorder.twins = Twins(feed, iterator, workers)
        run.emit("loader_started", loader=loader, feed=feed)


def _asked(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    run.emit("before_batch", loader=run.recorder.sources.loader(args[0]))


def _loaded(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any], batch: Any) -> None:
    run.recorder.batch(args, kwargs, batch)
    run.emit("batch_loaded", batch=batch, loader=run.recorder.sources.loader(args[0]))


def _failed(run: Run, args: tuple[Any, ...], error: BaseException) -> None:
    run.recorder.no_batch(args, error)


class _Ends:
    """Has the recorder say when an iterator had no batch; nothing is heard of it if nobody wants to know."""

    def __init__(self, run: Run) -> None:
        self._recorder = run.recorder
        if _PASSES & run.heard:
            run.recorder.on_end = functools.partial(_exhausted, run)

    def undo(self) -> None:
        """Say no more."""
        self._recorder.on_end = None


def _exhausted(run: Run, iterator: Any) -> None:
    site = run.recorder.sites.here(_ASKED, brief=True)
    feed = run.recorder.feeds.ended(iterator, site, asked_by())
    if feed is not None:
        run.emit("loader_exhausted", loader=feed.loader(), feed=feed)
