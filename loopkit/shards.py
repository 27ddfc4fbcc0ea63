"""Evaluations on loaders that give each rank its own share, and whether what ranks found was ever put together."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from torch.utils.data.distributed import DistributedSampler

if TYPE_CHECKING:
    from loopkit.callsite import Site

_LINES = 64


class Shard(NamedTuple):
    """A line that evaluates on a loader with a `DistributedSampler`, and never trains on it.

    Args:
        site: where the first pass began.
        passes: how many evaluated.
        samples: of the dataset.
        repeated: how many of them are given twice, so that all ranks have equally many.
        ranks: how many share it.
        rank: of this process.
        sent: whether the program called a collective itself after the first pass had begun.
    """

    site: Site
    passes: int
    samples: int
    repeated: int
    ranks: int
    rank: int
    sent: bool


class _Pass(NamedTuple):
    loader: Callable[[], object]
    made: Shard
    calls: int
    evaluations: int
    backwards: int


class Shards:
    """Remembers passes over loaders with a `DistributedSampler`.

    Attributes:
        calls: of collectives, by the program itself.
    """

    def __init__(self) -> None:
        self.calls = 0
        self._open: _Pass | None = None
        self._recorder: Any = None
        self._evaluated: dict[int, list[_Pass]] = {}

    def began(self, loader: Any, site: Site, recorder: Any) -> None:
        """A pass over a loader begins, and the one before it is over or waits for this one."""
        self._recorder = recorder
        self._close()
        sampler = getattr(loader, "sampler", None)
        if not isinstance(sampler, DistributedSampler):
            sampler = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
        if not isinstance(sampler, DistributedSampler) or sampler.num_replicas < 2:
            return
        with suppress(Exception):  # of a dataset that has no length
            samples = len(sampler.dataset)  # type: ignore[arg-type]
            repeated = max(0, sampler.total_size - samples)
            made = Shard(site, 0, samples, repeated, sampler.num_replicas, sampler.rank, sent=False)
            counts = self.calls, recorder.evaluations, recorder.backwards
            self._open = _Pass(weakref.ref(loader), made, *counts)

    def evaluated(self) -> Iterator[Shard]:
        """The lines that evaluated until now, the run's end; one that trains too is none."""
        self._close()
        for passes in self._evaluated.values():
            yield passes[0].made._replace(passes=len(passes), sent=self.calls > passes[0].calls)

    def _close(self) -> None:
        last, self._open = self._open, None
        recorder = self._recorder
        if last is None or recorder.evaluations == last.evaluations or not recorder.tracks:
            return
        loader = last.loader()
        # Of a loader that is gone it can no longer be told.
        trains = recorder.backwards > last.backwards if loader is None else recorder.sources.trains_on(loader)
        if not trains and (last.made.site.number in self._evaluated or len(self._evaluated) < _LINES):
            self._evaluated.setdefault(last.made.site.number, []).append(last)
