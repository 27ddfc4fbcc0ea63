"""Passes over DataLoaders: where each began, what order its sampler dealt, what came of its batches, how it ended."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, SequentialSampler

from loopkit.unseen import unseen

if TYPE_CHECKING:
    from loopkit.callsite import Site
    from loopkit.holdings import Owner

_KNOWN = 1000
"""Passes remembered; a script that makes an iterator for each batch must not grow without bound."""


class Order(NamedTuple):
    """In which order a pass deals samples, as far as samplers and random states tell.

    Args:
        sampler: class name of the innermost sampler.
        sequential: torch's own sampler of file order.
        epoch: what a shuffling DistributedSampler of torch seeds its order with; None of others.
        state: of the random generator that the pass has drawn its seed from; None where it cannot be read.
    """

    sampler: str
    sequential: bool
    epoch: int | None
    state: Tensor | None


class Feed:
    """One pass over a DataLoader.

    Attributes:
        ordinal: which pass over this loader, from 1.
        site: where its iterator was made.
        order: in which it deals samples.
        batches: handed out, once it has ended.
        ends: how often it said that there are no more batches.
        ended_at: where it was asked the last time it said so.
        asked_by: how it was asked then: "for" by a loop of the user's, "generator" by one in a generator, else "".
        trained: a backward came after one of its batches.
        evaluated: a forward without gradients came after one of its batches.
        twins: the first batches of its workers were the same; known of iterable datasets with several workers.
        before: the last earlier pass over the same loader that trained.
        most: batches that an earlier pass over the same loader handed out, at most.
    """

    def __init__(self, iterator: Any, loader: Any, site: Site, order: Order, owners: Iterable[Owner]) -> None:
        self.iterator: Callable[[], Any] = weakref.ref(iterator)
        self.loader: Callable[[], Any] = weakref.ref(loader)
        self.site = site
        self.order = order
        self.ordinal = 1
        self.batches = 0
        self.ends = 0
        self.ended_at: Site | None = None
        self.asked_by = ""
        self.trained = self.evaluated = self.twins = False
        self.before: Feed | None = None
        self.most = 0
        self._steps = {owner: owner.steps for owner in owners}

    def follow(self, last: Feed) -> None:
        """This is the next pass after `last` over the same loader."""
        self.ordinal = last.ordinal + 1
        self.most = max(last.most, last.handed_out())
        self.before = last if last.trained else last.before
        if self.before is not None and self.before.before is not None:
            self.before.before.before = None  # a chain would grow with the epochs

    def handed_out(self) -> int:
        """Batches so far."""
        iterator = self.iterator()
        if not self.ends and iterator is not None:
            self.batches = int(getattr(iterator, "_num_yielded", 0))
        return self.batches

    def stepped(self) -> list[Owner]:
        """The optimizers that were there when it began and have stepped since."""
        return [owner for owner, steps in self._steps.items() if owner.steps > steps]

    def goes_on_from(self, earlier: Feed) -> bool:
        """Whether an optimizer that stepped in `earlier` steps in this pass too: one training, and not two."""
        return any(
            owner in earlier._steps and earlier._steps[owner] < steps < owner.steps
            for owner, steps in self._steps.items()
        )


class Feeds:
    """Remembers passes by the `id` of their iterator, also when that is gone, and the last of each loader.

    Attributes:
        begun: passes, over all DataLoaders.
        trainings: of those, how many trained.
    """

    def __init__(self) -> None:
        self.begun = self.trainings = 0
        self._of: dict[int, Feed] = {}
        self._last: dict[int, Feed] = {}

    def began(self, iterator: Any, loader: Any, site: Site, owners: Iterable[Owner]) -> Feed:
        """An iterator over a loader was made, or one with workers that are kept begins anew."""
        self.begun += 1
        feed = Feed(iterator, loader, site, order_of(loader), owners)
        last = self._last.get(id(loader))
        if last is not None and last.loader() is loader:
            feed.follow(last)
        for known, key in ((self._of, id(iterator)), (self._last, id(loader))):
            known.pop(key, None)
            if len(known) >= _KNOWN:
                del known[next(iter(known))]
            known[key] = feed
        return feed

    def ended(self, iterator: Any, site: Site, asked_by: str) -> Feed | None:
        """An iterator was asked for a batch, and there was none."""
        feed = self._of.get(id(iterator))
        if feed is None or feed.iterator() is not iterator:
            return None
        feed.handed_out()
        feed.ends += 1
        feed.ended_at, feed.asked_by = site, asked_by
        return feed

    def trained(self, source: int) -> None:
        """A backward came after a batch of the iterator with this `id`."""
        if (feed := self._of.get(source)) is not None:
            self.trainings += not feed.trained
            feed.trained = True

    def evaluated(self, source: int) -> None:
        """A forward without gradients came after one."""
        if (feed := self._of.get(source)) is not None:
            feed.evaluated = True


def order_of(loader: Any) -> Order:
    """What a loader's samplers say; nothing of the user's is called."""
    sampler = innermost(loader)
    plain = type(getattr(loader, "batch_sampler", None)) in (BatchSampler, type(None))
    epoch = None
    if isinstance(sampler, DistributedSampler) and type(sampler).__iter__ is DistributedSampler.__iter__:
        epoch = int(sampler.seed + sampler.epoch) if sampler.shuffle and plain else None
    return Order(type(sampler).__name__, plain and type(sampler) is SequentialSampler, epoch, _state(loader))


def innermost(loader: Any) -> Any:
    """The sampler that deals indices: `loader.sampler` is a sequential one wherever a batch sampler was given."""
    sampler = getattr(loader, "batch_sampler", None)
    inner = getattr(sampler, "sampler", None)
    return inner if inner is not None else sampler if sampler is not None else getattr(loader, "sampler", None)


def _state(loader: Any) -> Tensor | None:
    """The state of the generator that a DataLoader has just drawn a seed from: so it moves with every pass."""
    if not isinstance(loader, DataLoader):
        return None
    try:
        with unseen():
            generator = loader.generator if loader.generator is not None else torch.default_generator
            state: Tensor = generator.get_state()
            return state
    except (RuntimeError, AttributeError):
        return None
