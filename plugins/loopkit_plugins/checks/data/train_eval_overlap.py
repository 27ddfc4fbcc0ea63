"""Samples that are trained on are evaluated on as well."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.data import RandomSampler, SequentialSampler, Subset, SubsetRandomSampler, TensorDataset

from loopkit import Confidence, Feed, Finding, Ledger, Run, Severity, hookimpl

_MOST = 1_000_000
"""Samples of a larger loader are not compared."""


class TrainEvalOverlap:
    """Some samples are in training and in evaluation.

    What it looks for
        An evaluation over a loader that shares samples with the loader that the model was trained on last: subsets of
        one dataset object, or samplers over it, whose indices meet, or tensor datasets whose rows lie in the same
        memory. Each side with samples of its own: an error. An evaluation on a part of the training data: a warning.

    Why that hurts
        The model has seen the answers: the validation score is too good, and the choice of the best epoch is wrong.

    A loop that has it
        train = Subset(data, range(0, 900))
        test = Subset(data, range(800, 1000))

    The repair
        Split once, by index or by group, and build both datasets from the two parts.

    Left alone
        Evaluation on all of the training data, and on a part of it beside another evaluation that has none of it:
        both are meant. Folds, each with a model and an optimizer of its own; windows of one series; copies, and
        datasets of other kinds, whose samples cannot be told apart.

    What it costs
        Nothing but at the end of an evaluation, and there once for each pair of loaders; a set of their indices.
    """

    rule = "train-eval-overlap"
    severity = Severity.ERROR
    confidence = Confidence.FACT

    def __init__(self) -> None:
        self._last: Feed | None = None
        self._pairs: list[tuple[Callable[[], Any], Callable[[], Any]]] = []
        self._parts: list[Finding] = []
        self._apart = False

    @hookimpl
    def loader_exhausted(self, run: Run, loader: Any, feed: Feed) -> Iterator[Finding]:
        """Compare an evaluation's loader with the one that trained last."""
        if feed.trained:
            self._last = feed
            return
        last = self._last
        if last is None or not feed.evaluated or feed.before is not None:
            return
        training = last.loader()
        if training is None or loader is None or training is loader:
            return
        # One that was just made belongs to another training, which may have another split.
        if any(not owner.steps for owner in run.instrument(Ledger).owners()):
            return
        if any(one() is training and other() is loader for one, other in self._pairs):
            return
        self._pairs = [*self._pairs[-64:], (last.loader, feed.loader)]
        yield from self._compare(feed, _rows(training), _rows(loader))

    @hookimpl
    def run_finished(self) -> Iterator[Finding]:
        """An evaluation on a part of the training data, if there was no other."""
        if not self._apart:
            yield from self._parts

    def _compare(self, feed: Feed, trained: _Rows | None, evaluated: _Rows | None) -> Iterator[Finding]:
        if trained is None or evaluated is None or trained.of != evaluated.of:
            self._apart |= trained is not None and evaluated is not None
            return
        own, others = set(trained.rows), set(evaluated.rows)
        both = own & others
        if not both:
            self._apart = True
        elif others - own:
            yield self._finding(feed, len(both), len(others), Severity.ERROR)
        elif own - others:
            self._parts.append(self._finding(feed, len(both), len(others), Severity.WARNING))

    def _finding(self, feed: Feed, both: int, evaluated: int, severity: Severity) -> Finding:
        assert self._last is not None
        return Finding(
            rule=self.rule,
            severity=severity,
            confidence=self.confidence,
            place=feed.site.place,
            places={"trained": self._last.site.place},
            seen=f"{both} of the {evaluated} samples evaluated here are among those trained on at "
            f"{self._last.site.place}",
            why="the model has seen their answers: what is measured is not how it does on new data",
            remedy="split once, by index or group, and build both loaders from the two parts",
            evidence={"shared": both, "evaluated": evaluated},
        )


class _Rows(NamedTuple):
    """Which samples a loader deals.

    Args:
        of: what they are samples of: the `id` of a dataset, or of the memory of its tensors.
        rows: indices, or where each sample's part of each tensor lies.
    """

    of: tuple[Any, ...]
    rows: Sequence[Any]


def _rows(loader: Any) -> _Rows | None:
    """The samples of a loader; None where it cannot be told."""
    dataset, sampler = loader.dataset, getattr(getattr(loader, "batch_sampler", None), "sampler", loader.sampler)
    indices: Sequence[int]
    try:
        if type(sampler) is SubsetRandomSampler:
            indices = list(sampler.indices)
        elif type(sampler) in (RandomSampler, SequentialSampler):
            indices = range(len(dataset))
        else:
            return None
        while type(dataset) is Subset and len(indices) <= _MOST:
            own: Any = dataset.indices
            indices, dataset = [int(own[n]) for n in indices], dataset.dataset
    except (TypeError, IndexError, ValueError):
        return None
    if len(indices) > _MOST:
        return None
    return _in_memory(dataset, indices) or _Rows(("dataset", id(dataset)), indices)


def _in_memory(dataset: Any, indices: Sequence[int]) -> _Rows | None:
    """The rows of a tensor dataset by where they lie: slices of one tensor are told apart, or not, so."""
    if type(dataset) is not TensorDataset or not all(map(_is_plain, dataset.tensors)):
        return None
    columns = [
        [tensor.data_ptr() + n * tensor.stride(0) * tensor.element_size() for n in indices]
        for tensor in dataset.tensors
    ]
    memory = tuple(tensor.untyped_storage().data_ptr() for tensor in dataset.tensors)
    return _Rows(("memory", *memory), list(zip(*columns, strict=True)))


def _is_plain(tensor: Any) -> bool:
    """Whether the rows of a tensor lie in different places, and it is known in which."""
    if type(tensor) is not torch.Tensor or tensor.layout is not torch.strided or tensor.is_meta:
        return False
    return tensor.numel() > 0 and tensor.dim() > 0 and (len(tensor) == 1 or tensor.stride(0) > 0)
