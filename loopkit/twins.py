"""Whether the workers of a loader hand out the same batches, as copies of one stream do."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from loopkit.unseen import unseen

if TYPE_CHECKING:
    from loopkit.feeds import Feed

_ELEMENTS = 4096
"""Of each tensor; what is compared is copied, so that no batch is kept."""


class Twins:
    """Compares the first batches of a pass: one of each worker, and one more.

    Workers take turns. Where the first batch of each is the same and the next one is another, the stream has begun
    anew in each of them, and its samples are not merely all alike.

    Args:
        feed: the pass.
        workers: how many the loader has.
    """

    def __init__(self, feed: Feed, iterator: Any, workers: int) -> None:
        self._feed = feed
        self._iterator: Callable[[], Any] = weakref.ref(iterator)
        self._workers = workers
        self._first: list[Tensor] = []
        self._seen = 0

    def saw(self, iterator: Any, batch: Any) -> bool:
        """A batch arrived; returns whether the next one is to be shown as well."""
        if iterator is not self._iterator():
            return True
        self._seen += 1
        with unseen(), torch.no_grad():
            if self._seen == 1:
                self._first = [tensor.reshape(-1)[:_ELEMENTS].clone() for tensor in _tensors(batch)]
                return bool(self._first)
            same = self._is_first(batch)
        if self._seen <= self._workers:
            return same
        self._feed.twins = not same
        return False

    def _is_first(self, batch: Any) -> bool:
        tensors = [tensor.reshape(-1)[:_ELEMENTS] for tensor in _tensors(batch)]
        return len(tensors) == len(self._first) and all(map(torch.equal, tensors, self._first))


def _tensors(batch: Any, depth: int = 0) -> Iterator[Tensor]:
    """The tensors in the main memory that a batch holds."""
    if isinstance(batch, Tensor):
        if batch.device.type == "cpu" and batch.layout is torch.strided:
            yield batch.detach()
    elif depth < 4 and isinstance(batch, (list, tuple, Mapping)):
        for each in batch.values() if isinstance(batch, Mapping) else batch:
            yield from _tensors(each, depth + 1)
