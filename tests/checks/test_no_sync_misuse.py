"""no-sync-misuse: found where it is, silent on what looks like it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from loopkit import Confidence, Severity
from tests.loops import loss_of
from tests.replicas import Net, Work, data, on_ranks, wrapped
from tests.watched import find, line_of, rules


def all_under_no_sync(rank: int) -> None:
    _, ddp, optimizer = wrapped()
    for i, (x, y) in enumerate(data(rank)):
        with ddp.no_sync():
            loss_of(ddp(x), y).backward()
        if i % 2 == 1:
            optimizer.step()
            optimizer.zero_grad()


def windows(armed: Callable[[int], bool], size: int = 2, count: int = 8) -> Work:
    """Accumulation windows; `armed` says of each place in the window whether it is synchronised."""

    def work(rank: int) -> None:
        _, ddp, optimizer = wrapped()
        for i, (x, y) in enumerate(data(rank, count)):
            ddp.require_backward_grad_sync = armed(i % size)
            loss_of(ddp(x), y).backward()
            if i % size == size - 1:
                optimizer.step()
                optimizer.zero_grad()

    return work


SNAPSHOTS = {"no-sync-misuse": lambda: on_ranks(all_under_no_sync)}


def test_found_at_the_backward_that_ends_the_window() -> None:
    (finding,) = find(lambda: on_ranks(all_under_no_sync))
    assert finding.rule == "no-sync-misuse"
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(all_under_no_sync, "backward()")
    assert "all 2 forwards since the step before ran under no_sync()" in finding.seen
    assert finding.step == 1
    assert finding.evidence["ranks"] == [0, 1]


def test_found_where_only_the_first_of_a_window_is_synchronised() -> None:
    (finding,) = find(lambda: on_ranks(windows(lambda place: place == 0)))
    assert finding.rule == "no-sync-misuse"
    assert "the last forward since the step before ran under no_sync()" in finding.seen


def test_found_without_accumulation() -> None:
    (finding,) = find(lambda: on_ranks(windows(lambda place: False, size=1)))
    assert "the forward since the step before ran under no_sync()" in finding.seen


@pytest.mark.parametrize("armed", [lambda place: place == 1, lambda place: True], ids=["last", "all"])
def test_silent_where_the_last_of_a_window_is_synchronised(armed: Callable[[int], bool]) -> None:
    assert rules(lambda: on_ranks(windows(armed))) == []


def no_sync_around_backward_alone(rank: int) -> None:
    _, ddp, optimizer = wrapped()
    for x, y in data(rank):
        loss = loss_of(ddp(x), y)
        with ddp.no_sync():  # too late to change anything
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def averaged_by_hand(rank: int) -> None:
    net, ddp, optimizer = wrapped()
    for x, y in data(rank):
        with ddp.no_sync():
            loss_of(ddp(x), y).backward()
        for parameter in net.parameters():
            assert parameter.grad is not None
            dist.all_reduce(parameter.grad)
            parameter.grad /= 2
        optimizer.step()
        optimizer.zero_grad()


def local_sgd(rank: int) -> None:
    net, ddp, optimizer = wrapped()
    for i, (x, y) in enumerate(data(rank, 8)):
        with ddp.no_sync():
            loss_of(ddp(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        if i % 4 == 3:
            for parameter in net.parameters():
                dist.all_reduce(parameter.data)
                parameter.data /= 2


def discriminator_in_the_generators_step(rank: int) -> None:
    torch.manual_seed(0)
    generator, discriminator = torch.nn.Linear(4, 4), torch.nn.Linear(4, 1)
    ddp_g, ddp_d = DistributedDataParallel(generator), DistributedDataParallel(discriminator)
    opt_g = torch.optim.SGD(generator.parameters(), lr=0.1)
    opt_d = torch.optim.SGD(discriminator.parameters(), lr=0.1)
    for x, _ in data(rank):
        opt_d.zero_grad()
        (ddp_d(x).mean() - ddp_d(ddp_g(x).detach()).mean()).backward()
        opt_d.step()
        opt_g.zero_grad()
        with ddp_d.no_sync():
            ddp_d(ddp_g(x)).mean().backward()
        opt_g.step()


def a_forward_that_is_not_sent_backward(rank: int) -> None:
    _, ddp, optimizer = wrapped()
    for x, y in data(rank):
        optimizer.zero_grad()
        loss_of(ddp(x), y).backward()
        with ddp.no_sync():
            ddp(x)
        optimizer.step()


LOOK_ALIKES = [
    no_sync_around_backward_alone,
    averaged_by_hand,
    local_sgd,
    discriminator_in_the_generators_step,
    a_forward_that_is_not_sent_backward,
]


@pytest.mark.parametrize("work", LOOK_ALIKES, ids=lambda work: str(work.__name__))
def test_silent_on(work: Work) -> None:
    found = find(lambda: on_ranks(work))
    assert [finding.rule for finding in found if finding.severity.at_least(Severity.WARNING)] == []


def test_silent_on_one_rank() -> None:
    assert rules(lambda: on_ranks(all_under_no_sync, ranks=1)) == []


def test_silent_without_ddp() -> None:
    def loop() -> None:
        net = Net()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for x, y in data(0):
            vars(net)["require_backward_grad_sync"] = False
            loss_of(net(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()

    assert rules(loop) == []
