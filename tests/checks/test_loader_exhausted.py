"""loader-exhausted: found where it is, silent on what looks like it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler

import loopkit
from loopkit import Confidence, Severity
from tests.loops import adamw, loader, loss_of, model
from tests.watched import find, line_of, rules

RULE = "loader-exhausted"
Step = Callable[[Any], None]


def stepper() -> Step:
    net = model()
    optimizer = adamw(net)

    def step(batch: Any) -> None:
        optimizer.zero_grad()
        loss_of(net(batch[0]), batch[1]).backward()
        optimizer.step()

    return step


def once() -> None:
    step = stepper()
    stream = iter(loader())
    for _ in range(2):
        for batch in stream:
            step(batch)


class Stream(IterableDataset[Any]):
    """Samples from whatever `make` returns for each pass."""

    def __init__(self, make: Callable[[], Iterator[Any]]) -> None:
        self.make = make

    def __iter__(self) -> Iterator[Any]:
        return self.make()


class Once(Stream):
    """Is its own iterator."""

    def __init__(self) -> None:
        self.left = samples()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self.left)


def samples(count: int = 8) -> Iterator[tuple[Tensor, Tensor]]:
    return iter([(torch.randn(4), torch.randn(2)) for _ in range(count)])


def walk(batches: DataLoader[Any], epochs: int) -> None:
    step = stepper()
    for _ in range(epochs):
        for batch in batches:
            step(batch)


def used_up_sampler() -> None:
    whole = loader()
    indices: Any = BatchSampler(SequentialSampler(range(16)), 4, drop_last=False)
    walk(DataLoader(whole.dataset, batch_sampler=iter(indices)), 2)


SNAPSHOTS = {RULE: once, f"{RULE}-sampler": used_up_sampler}


def test_found_where_the_iterator_is_made() -> None:
    (finding,) = find(once)
    assert (finding.rule, finding.severity, finding.confidence) == (RULE, Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(once, "iter(loader())")
    assert finding.places["asked again"].line == line_of(once, "for batch in stream")
    assert (finding.evidence["batches"], finding.step) == (4, 4)


def enumerated(step: Step) -> None:
    stream = iter(loader())
    for _ in range(2):
        for _, batch in enumerate(stream):
            step(batch)


def zipped(step: Step) -> None:
    stream = iter(loader())
    for _ in range(2):
        for batch, _ in zip(stream, loader(), strict=False):
            step(batch)


def with_a_bar(step: Step) -> None:
    tqdm = pytest.importorskip("tqdm")
    stream = iter(loader())
    for _ in range(2):
        for batch in tqdm.tqdm(stream, disable=True):
            step(batch)


def nested(step: Step) -> None:
    stream = iter(loader())
    for _ in range(3):
        for batch in stream:
            step(batch)


def in_a_generator(step: Step) -> None:
    stream = iter(loader())

    def batches() -> Iterator[Any]:
        for batch in stream:  # noqa: UP028
            yield batch

    for _ in range(3):
        for batch in batches():
            step(batch)


def evaluated(step: Step) -> None:
    net = nn.Linear(4, 2)
    held_out = iter(loader())
    for _ in range(2):
        for batch in loader():
            step(batch)
        with torch.no_grad():
            for batch in held_out:
                net(batch[0])


@pytest.mark.parametrize("loop", [enumerated, zipped, with_a_bar, nested, in_a_generator, evaluated])
def test_in_other_forms(loop: Callable[[Step], None]) -> None:
    assert [rule for rule in rules(lambda: loop(stepper())) if rule == RULE] == [RULE]


def test_a_sampler_or_a_dataset_that_is_an_iterator() -> None:
    (finding,) = find(used_up_sampler)
    assert (finding.rule, finding.evidence) == (RULE, {"batches": 4, "pass": 2})
    assert rules(lambda: walk(DataLoader(Once(), batch_size=4), 2)) == [RULE]


def test_a_stream_that_holds_a_generator_is_named_at_its_second_empty_pass() -> None:
    left = samples()
    assert rules(lambda: walk(DataLoader(Stream(lambda: left), batch_size=4), 3)) == [RULE]
    again = samples()
    assert rules(lambda: walk(DataLoader(Stream(lambda: again), batch_size=4), 2)) == []


# -- look-alikes -------------------------------------------------------------------------------------------


def begins_anew(step: Step) -> None:
    batches = loader()
    stream = iter(batches)
    for _ in range(10):
        try:
            batch = next(stream)
        except StopIteration:
            stream = iter(batches)
            batch = next(stream)
        step(batch)


def in_pieces(step: Step) -> None:
    stream = iter(loader(samples=24))
    while window := list(itertools.islice(stream, 4)):
        for batch in window:
            step(batch)


def pieces_until_there_is_none(step: Step) -> None:
    stream = iter(loader(samples=24))
    while True:
        taken = 0
        for batch in itertools.islice(stream, 4):
            step(batch)
            taken += 1
        if not taken:
            break


def a_generator_of_pieces(step: Step) -> None:
    stream = iter(loader(samples=24))

    def piece() -> Iterator[Any]:
        for n, batch in enumerate(stream):
            yield batch
            if n == 3:
                return

    more = True
    while more:
        more = False
        for batch in piece():
            step(batch)
            more = True


def of_unequal_length(step: Step) -> None:
    short, long = iter(loader(samples=8)), iter(loader())
    for _ in range(4):
        next(short, None)
        step(next(long))


def first_and_rest(step: Step) -> None:
    stream = iter(loader())
    step(next(stream))
    for batch in stream:
        step(batch)


def ordinary(step: Step) -> None:
    batches = loader()
    for _ in range(3):
        for batch in batches:
            step(batch)


@pytest.mark.parametrize(
    "loop",
    [
        begins_anew,
        in_pieces,
        pieces_until_there_is_none,
        a_generator_of_pieces,
        of_unequal_length,
        first_and_rest,
        ordinary,
    ],
)
def test_look_alikes_are_left_alone(loop: Callable[[Step], None]) -> None:
    assert RULE not in rules(lambda: loop(stepper()))


def test_a_loop_of_ours_is_left_alone() -> None:
    def loop() -> None:
        net = model()
        loopkit.Loop(net, adamw(net), loader(samples=24), loss=loss_of, accumulate=4).run(epochs=2)

    assert RULE not in rules(loop)
