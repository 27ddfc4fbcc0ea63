"""ddp-forward-bypassed: found where it is, silent on what looks like it."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from loopkit import Confidence, Severity
from tests.loops import loss_of
from tests.replicas import Net, Work, data, on_ranks, wrapped
from tests.watched import find, line_of, rules


def past_the_wrapper(rank: int) -> None:
    _, ddp, optimizer = wrapped()
    for x, y in data(rank):
        optimizer.zero_grad()
        prediction = ddp.module(x)
        loss_of(prediction, y).backward()
        optimizer.step()


def by_a_method(rank: int) -> None:
    _, ddp, optimizer = wrapped()
    for x, y in data(rank):
        optimizer.zero_grad()
        loss = ddp.module.loss(x, y)
        loss.backward()
        optimizer.step()


def by_the_name_from_before_the_wrap(rank: int) -> None:
    net, _ddp, optimizer = wrapped()
    for x, y in data(rank):
        optimizer.zero_grad()
        loss = loss_of(net(x), y)
        loss.backward()
        optimizer.step()


SNAPSHOTS = {"ddp-forward-bypassed": lambda: on_ranks(by_a_method)}


@pytest.mark.parametrize(
    ("work", "line"),
    [
        (past_the_wrapper, "ddp.module(x)"),
        (by_a_method, "ddp.module.loss("),
        (by_the_name_from_before_the_wrap, "loss_of(net(x)"),
    ],
    ids=lambda work: getattr(work, "__name__", ""),
)
def test_found_at_the_call_past_the_wrapper(work: Work, line: str) -> None:
    (finding,) = find(lambda: on_ranks(work))
    assert finding.rule == "ddp-forward-bypassed"
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(work, line)
    assert finding.subject == "Net"
    assert finding.step == 1
    assert finding.evidence["ranks"] == [0, 1]


def evaluation_past_the_wrapper(rank: int) -> None:
    _, ddp, optimizer = wrapped()
    for x, y in data(rank):
        optimizer.zero_grad()
        loss_of(ddp(x), y).backward()
        optimizer.step()
        with torch.no_grad():
            ddp.module(x)


def a_penalty_beside_the_forward(rank: int) -> None:
    _, ddp, optimizer = wrapped()
    for x, y in data(rank):
        optimizer.zero_grad()
        (loss_of(ddp(x), y) + ddp.module.backbone(x).pow(2).mean()).backward()
        optimizer.step()


def averaged_by_hand(rank: int) -> None:
    net, ddp, optimizer = wrapped()
    for x, y in data(rank):
        optimizer.zero_grad()
        loss_of(ddp.module(x), y).backward()
        dist.all_reduce(torch.cat([each.grad.flatten() for each in net.parameters() if each.grad is not None]))
        optimizer.step()


class Task(nn.Module):
    """Calls a wrapped model inside, and a part of it beside."""

    def __init__(self, ddp: DistributedDataParallel) -> None:
        super().__init__()
        self.ddp = ddp

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.ddp(x)
        return out


def a_wrapper_inside_another_module(rank: int) -> None:
    net, ddp, optimizer = wrapped()
    task = Task(ddp)
    for x, y in data(rank):
        optimizer.zero_grad()
        (loss_of(task(x), y) + net.head(net.backbone(x)).mean()).backward()
        optimizer.step()


def another_optimizer_steps(rank: int) -> None:
    critic = DistributedDataParallel(nn.Linear(2, 1))
    _, ddp, optimizer = wrapped()
    for x, y in data(rank):
        optimizer.zero_grad()
        (critic.module(ddp(x)).mean() + loss_of(ddp(x), y)).backward()
        optimizer.step()


LOOK_ALIKES = [
    evaluation_past_the_wrapper,
    a_penalty_beside_the_forward,
    averaged_by_hand,
    a_wrapper_inside_another_module,
    another_optimizer_steps,
]


@pytest.mark.parametrize("work", LOOK_ALIKES, ids=lambda work: str(work.__name__))
def test_silent_on(work: Work) -> None:
    assert "ddp-forward-bypassed" not in rules(lambda: on_ranks(work))


def test_silent_on_one_rank() -> None:
    assert rules(lambda: on_ranks(by_a_method, ranks=1)) == []


def test_silent_without_a_wrapper() -> None:
    def work(rank: int) -> None:
        net = Net()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for x, y in data(rank):
            optimizer.zero_grad()
            net.loss(x, y).backward()
            optimizer.step()

    assert rules(lambda: on_ranks(work)) == []
