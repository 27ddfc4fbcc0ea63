"""replicas-diverged: found where it is, silent on what looks like it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from loopkit import Confidence, Severity
from tests.loops import loss_of
from tests.replicas import Net, Work, data, on_ranks, wrapped
from tests.watched import find, line_of, rules


def _train(ddp: DistributedDataParallel, optimizer: torch.optim.Optimizer, rank: int) -> None:
    for x, y in data(rank):
        optimizer.zero_grad()
        loss_of(ddp(x), y).backward()
        optimizer.step()


def _pretrained() -> dict[str, Any]:
    return {name: value * 3 for name, value in Net().state_dict().items()}


def loaded_on_rank_0_alone(rank: int) -> None:
    net, ddp, optimizer = wrapped()
    if rank == 0:
        net.load_state_dict(_pretrained())
    _train(ddp, optimizer, rank)


def initialised_on_each_rank(rank: int) -> None:
    net, ddp, optimizer = wrapped()
    torch.manual_seed(rank)
    nn.init.normal_(net.head.weight)
    _train(ddp, optimizer, rank)


def clipped_on_one_rank(rank: int) -> None:
    net, ddp, optimizer = wrapped()
    for x, y in data(rank):
        optimizer.zero_grad()
        loss_of(ddp(x), y).backward()
        if rank == 0:
            nn.utils.clip_grad_norm_(net.parameters(), 0.01)
        optimizer.step()


SNAPSHOTS = {"replicas-diverged": lambda: on_ranks(loaded_on_rank_0_alone)}


def test_found_at_the_load() -> None:
    (finding,) = find(lambda: on_ranks(loaded_on_rank_0_alone))
    assert finding.rule == "replicas-diverged"
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(loaded_on_rank_0_alone, "load_state_dict")
    assert "4 of 4 parameters of Net differ between ranks 0 and 1" in finding.seen
    assert "ran on rank 0 alone" in finding.seen
    assert finding.evidence["first_seen"] == 1


def test_found_at_the_wrap_where_no_load_is_to_blame() -> None:
    (finding,) = find(lambda: on_ranks(initialised_on_each_rank))
    assert finding.rule == "replicas-diverged"
    assert finding.place is not None
    assert finding.place.line == line_of(wrapped, "DistributedDataParallel(net)")
    assert "most in head.weight" in finding.seen


def test_found_where_ranks_step_differently() -> None:
    found = find(lambda: on_ranks(clipped_on_one_rank))
    assert [finding.rule for finding in found if finding.severity is Severity.ERROR] == ["replicas-diverged"]


def healthy(rank: int) -> None:
    _, ddp, optimizer = wrapped()
    _train(ddp, optimizer, rank)


def loaded_on_every_rank(rank: int) -> None:
    net, ddp, optimizer = wrapped()
    net.load_state_dict(_pretrained())
    _train(ddp, optimizer, rank)


def loaded_before_the_wrap(rank: int) -> None:
    net = Net()
    if rank == 0:
        net.load_state_dict(_pretrained())
    ddp = DistributedDataParallel(net)
    _train(ddp, torch.optim.SGD(net.parameters(), lr=0.1), rank)


def sent_to_the_others_after_the_load(rank: int) -> None:
    net, ddp, optimizer = wrapped()
    if rank == 0:
        net.load_state_dict(_pretrained())
    for parameter in net.parameters():
        dist.broadcast(parameter.data, 0)
    _train(ddp, optimizer, rank)


def averaged_copy_on_rank_0(rank: int) -> None:
    net, ddp, optimizer = wrapped()
    average = Net()
    for x, y in data(rank):
        optimizer.zero_grad()
        loss_of(ddp(x), y).backward()
        optimizer.step()
        if rank == 0:
            own = {name: value.clone() for name, value in net.state_dict().items()}
            net.load_state_dict(average.state_dict())
            with torch.no_grad():
                net(x)
            net.load_state_dict(own)


def buffers(rank: int) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    ddp = DistributedDataParallel(net, broadcast_buffers=False)
    _train(ddp, torch.optim.SGD(net.parameters(), lr=0.1), rank)


def an_ignored_parameter(rank: int) -> None:
    net = Net()
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(net, ["head.bias"])
    ddp = DistributedDataParallel(net)
    _train(ddp, torch.optim.SGD(net.parameters(), lr=0.1), rank)


def a_group_for_each_rank(rank: int) -> None:
    groups = [dist.new_group([each]) for each in range(2)]
    net = Net()
    ddp = DistributedDataParallel(net, process_group=groups[rank])
    _train(ddp, torch.optim.SGD(net.parameters(), lr=0.1), rank)


def a_hook_that_averages_nothing(rank: int) -> None:
    _, ddp, optimizer = wrapped()

    def local(state: object, bucket: Any) -> torch.futures.Future[torch.Tensor]:
        future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    local.__annotations__.clear()  # DDP compares them with types, and here they are texts
    ddp.register_comm_hook(None, local)
    _train(ddp, optimizer, rank)


LOOK_ALIKES = [
    healthy,
    loaded_on_every_rank,
    loaded_before_the_wrap,
    sent_to_the_others_after_the_load,
    averaged_copy_on_rank_0,
    buffers,
    an_ignored_parameter,
    a_group_for_each_rank,
    a_hook_that_averages_nothing,
]


@pytest.mark.filterwarnings("ignore:`broadcast_buffers`")
@pytest.mark.parametrize("work", LOOK_ALIKES, ids=lambda work: str(work.__name__))
def test_silent_on(work: Work) -> None:
    assert rules(lambda: on_ranks(work)) == []
