"""Only a small, fixed part of the dataset is ever drawn."""

from __future__ import annotations

import dis
from collections.abc import Iterator
from typing import Any

from torch.utils.data import BatchSampler, IterableDataset, Subset, WeightedRandomSampler

from loopkit import Confidence, Feed, Finding, Place, Run, Severity, hookimpl

_ITERATORS = 8
"""Iterators in a row, each asked for one batch and trained on it, from which on it is how the loop gets its data."""


class DatasetBarelySampled:
    """Training sees a small, fixed part of the dataset again and again.

    What it looks for
        A loop that makes a new iterator for each batch (`next(iter(loader))`) over a loader that does not shuffle: it
        trains on the first batch alone, since the same samples are dealt each time. And a WeightedRandomSampler with
        fewer weights than the dataset has samples (one for each class, say): only the first of them are drawn.

    Why that hurts
        The rest of the data might as well not be there; the loss falls all the same.

    A loop that has it
        loader = DataLoader(dataset, batch_size=32)
        for step in range(steps):
            x, y = next(iter(loader))
            train_step(x, y)

    The repair
        Loop over the loader, `for x, y in loader`; where steps are counted, keep one iterator, and make a new one
        when it ends. Give the sampler a weight for each sample: `weights[labels]`.

    Left alone
        One batch that is taken before the loop, to learn it by heart; iterable datasets; loaders of a single batch;
        random samplers, which deal another batch each time (only said, as info: each batch costs a whole permutation,
        and no epoch covers the data).

    What it costs
        Nothing but when an iterator is made.
    """

    rule = "dataset-barely-sampled"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._first: dict[tuple[int, Place], int] = {}
        self._weighted: dict[int, Finding] = {}

    @hookimpl
    def loader_started(self, run: Run, loader: Any, feed: Feed) -> Iterator[Finding]:
        """Count iterators that were given up after one batch."""
        if run.loop is not None or isinstance(getattr(loader, "dataset", None), IterableDataset):
            return
        last = feed.before
        key = (id(loader), feed.site.place)
        if last is None or last.ordinal != feed.ordinal - 1:
            self._first.pop(key, None)
            return
        apart = last.before is not None and not last.goes_on_from(last.before)
        if apart or last.ends or last.handed_out() > 1 or last.site.place != feed.site.place or _length(loader) < 2:
            self._first.pop(key, None)
            return
        self._first[key] = self._first.get(key, 0) + 1
        if self._first[key] == _ITERATORS:
            yield self._one_batch(loader, feed)

    @hookimpl
    def loader_exhausted(self, loader: Any, feed: Feed) -> Iterator[Finding]:
        """Compare a sampler's weights with its dataset, once a pass has trained on what it dealt."""
        sampler = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
        if not feed.trained or type(sampler) is not WeightedRandomSampler:
            return
        if type(loader.batch_sampler) is not BatchSampler:
            return
        samples, weights = _samples(loader), len(sampler.weights)
        if samples is not None and weights < samples:
            yield self._finding(
                feed,
                f"its WeightedRandomSampler has {weights} weights, and the dataset {samples} samples: only the first "
                f"{weights} are ever drawn",
                "give a weight for each sample, such as class_weights[labels]",
                {"weights": weights, "samples": samples},
            )

    def _one_batch(self, loader: Any, feed: Feed) -> Finding:
        number = _length(loader)
        begun = f"each of {feed.ordinal - 1} batches was the first of a new iterator over a loader of {number}"
        if feed.order.sequential and not _ignores_index(loader.dataset):
            return self._finding(
                feed,
                f"{begun} that does not shuffle: training sees batch 1 alone",
                "loop over the loader, or keep one iterator and make a new one when it ends",
                {"iterators": feed.ordinal, "length": number},
            )
        return self._finding(
            feed,
            f"{begun}: its {feed.order.sampler} began anew for each",
            "loop over the loader, or keep one iterator and make a new one when it ends",
            {"iterators": feed.ordinal, "length": number},
            Severity.INFO,
        )

    def _finding(
        self, feed: Feed, seen: str, remedy: str, evidence: dict[str, Any], severity: Severity = Severity.ERROR
    ) -> Finding:
        harm = severity is Severity.ERROR
        return Finding(
            rule=self.rule,
            severity=severity,
            confidence=self.confidence,
            place=feed.site.place,
            seen=seen,
            why="the rest of the dataset is never trained on" if harm else "no epoch ever covers the dataset",
            remedy=remedy,
            evidence=evidence,
        )


def _ignores_index(dataset: Any) -> bool:
    """Whether a dataset makes its samples up, whatever index it is asked for."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    code = getattr(getattr(type(dataset), "__getitem__", None), "__code__", None)
    if code is None or code.co_argcount < 2:
        return False
    index = code.co_varnames[1]
    return all(each.argval != index for each in dis.get_instructions(code) if each.opname.startswith("LOAD"))


def _length(loader: Any) -> int:
    try:
        return len(loader)
    except Exception:  # noqa: BLE001 - samplers are the user's code, and many have no length
        return 0


def _samples(loader: Any) -> int | None:
    try:
        return len(loader.dataset)
    except Exception:  # noqa: BLE001 - datasets are the user's code, and some have no length
        return None
