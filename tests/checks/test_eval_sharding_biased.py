"""eval-sharding-biased: found where it is, silent on what looks like it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from loopkit import Confidence, Finding, Severity
from tests.loops import loss_of
from tests.replicas import Work, on_ranks, wrapped
from tests.watched import find, line_of

Loader = DataLoader[tuple[Tensor, ...]]


def _dataset(samples: int) -> TensorDataset:
    x = torch.randn(samples, 4, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x, x[:, :2].clone())


def sharded(samples: int) -> Loader:
    data = _dataset(samples)
    return DataLoader(data, batch_size=8, sampler=DistributedSampler(data, shuffle=False))


@torch.no_grad()
def evaluate(model: nn.Module, loader: Loader) -> Tensor:
    model.eval()
    losses = [loss_of(model(x), y) for x, y in loader]
    model.train()
    return torch.stack(losses).sum()


def training(
    held_out: Callable[[], Loader], together: Callable[[Tensor], object] = lambda loss: None, epochs: int = 2
) -> Work:
    def work(rank: int) -> None:
        _, ddp, optimizer = wrapped()
        train, validation = sharded(32), held_out()
        for _ in range(epochs):
            for x, y in train:
                optimizer.zero_grad()
                loss_of(ddp(x), y).backward()
                optimizer.step()
            together(evaluate(ddp, validation))

    return work


def apart(samples: int = 24) -> None:
    on_ranks(training(lambda: sharded(samples)))


SNAPSHOTS = {"eval-sharding-biased": apart}


def only(found: list[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.rule == "eval-sharding-biased"]


def test_found_at_the_loop_that_evaluates() -> None:
    (finding,) = find(apart)
    assert finding.rule == "eval-sharding-biased"
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.FACT)
    assert finding.place is not None
    assert finding.place.line == line_of(evaluate, "in loader")
    assert "2 evaluations on a loader with a DistributedSampler, 12 of 24 samples a rank" in finding.seen


@pytest.mark.parametrize(("samples", "repeated"), [(24, None), (25, 1)])
def test_only_repeated_samples_are_told_where_losses_are_put_together(samples: int, repeated: int | None) -> None:
    found = only(find(lambda: on_ranks(training(lambda: sharded(samples), dist.all_reduce))))
    assert [(each.severity, each.evidence["repeated"]) for each in found] == (
        [] if repeated is None else [(Severity.INFO, repeated)]
    )


def gathered(loss: Tensor) -> None:
    every: list[object] = [None, None]
    dist.all_gather_object(every, loss.item())


LOOK_ALIKES = {
    "all samples on each rank": training(lambda: DataLoader(_dataset(24), batch_size=8)),
    "one evaluation": training(lambda: sharded(24), epochs=1),
    "gathered as objects": training(lambda: sharded(24), gathered),
}


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_silent_on(name: str) -> None:
    assert only(find(lambda: on_ranks(LOOK_ALIKES[name]))) == []


def test_silent_where_a_teacher_runs_in_training() -> None:
    def work(rank: int) -> None:
        net, ddp, optimizer = wrapped()
        train = sharded(32)
        for _ in range(3):
            for x, _ in train:
                with torch.no_grad():
                    target = net(x)
                optimizer.zero_grad()
                loss_of(ddp(x), target).backward()
                optimizer.step()

    assert only(find(lambda: on_ranks(work))) == []
