"""same-data-on-every-rank: found where it is, silent on what looks like it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Sampler, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from loopkit import Confidence, Severity
from tests.loops import loss_of
from tests.replicas import Net, Work, on_ranks, wrapped
from tests.watched import find, line_of, rules


def _dataset() -> TensorDataset:
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x, x[:, :2].clone())


def _train(loader: DataLoader[tuple[Tensor, ...]]) -> None:
    _, ddp, optimizer = wrapped()
    for x, y in loader:
        optimizer.zero_grad()
        loss_of(ddp(x), y).backward()
        optimizer.step()


def without_a_sampler(rank: int) -> None:
    torch.manual_seed(0)
    _train(DataLoader(_dataset(), batch_size=8, shuffle=True))


def unshuffled(rank: int) -> None:
    _train(DataLoader(_dataset(), batch_size=8))


def made_with_one_seed(rank: int) -> None:
    torch.manual_seed(0)
    _, ddp, optimizer = wrapped()
    for _ in range(8):
        x = torch.randn(8, 4)
        optimizer.zero_grad()
        loss_of(ddp(x), x[:, :2]).backward()
        optimizer.step()


SNAPSHOTS = {"same-data-on-every-rank": lambda: on_ranks(without_a_sampler)}


@pytest.mark.parametrize("work", [without_a_sampler, unshuffled], ids=lambda work: str(work.__name__))
def test_found_at_the_loop(work: Work) -> None:
    (finding,) = [each for each in find(lambda: on_ranks(work)) if each.rule == "same-data-on-every-rank"]
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.FACT)
    assert finding.place is not None
    assert finding.place.line == line_of(_train, "in loader")
    assert "ranks 0 and 1 gave Net the same batch at each of the" in finding.seen
    assert finding.evidence["ranks"] == [0, 1]


def test_only_told_where_no_loader_makes_the_batches() -> None:
    (finding,) = find(lambda: on_ranks(made_with_one_seed))
    assert (finding.rule, finding.severity) == ("same-data-on-every-rank", Severity.INFO)


def with_a_sampler(rank: int) -> None:
    data = _dataset()
    _train(DataLoader(data, batch_size=8, sampler=DistributedSampler(data)))


def shuffled_differently(rank: int) -> None:
    own = torch.Generator().manual_seed(rank)
    _train(DataLoader(_dataset(), batch_size=8, shuffle=True, generator=own))


class EveryOther(Sampler[int]):
    """A sampler of the user's own."""

    def __init__(self, rank: int) -> None:
        self._rank = rank

    def __iter__(self) -> Iterator[int]:
        return iter(range(self._rank, 64, 2))


def with_a_sampler_of_its_own(rank: int) -> None:
    _train(DataLoader(_dataset(), batch_size=8, sampler=EveryOther(rank)))


def the_same_batch_again_and_again(rank: int) -> None:
    x = torch.ones(8, 4).cumsum(0)
    _train(DataLoader(TensorDataset(x.repeat(8, 1), x[:, :2].repeat(8, 1)), batch_size=8))


def a_group_for_each_rank(rank: int) -> None:
    groups = [dist.new_group([each]) for each in range(2)]
    net = Net()
    ddp = DistributedDataParallel(net, process_group=groups[rank])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for x, y in DataLoader(_dataset(), batch_size=8):
        optimizer.zero_grad()
        loss_of(ddp(x), y).backward()
        optimizer.step()


LOOK_ALIKES = [
    with_a_sampler,
    shuffled_differently,
    with_a_sampler_of_its_own,
    the_same_batch_again_and_again,
    a_group_for_each_rank,
]


@pytest.mark.parametrize("work", LOOK_ALIKES, ids=lambda work: str(work.__name__))
def test_silent_on(work: Work) -> None:
    assert "same-data-on-every-rank" not in rules(lambda: on_ranks(work))


def test_silent_on_one_rank() -> None:
    assert "same-data-on-every-rank" not in rules(lambda: on_ranks(unshuffled, ranks=1))
