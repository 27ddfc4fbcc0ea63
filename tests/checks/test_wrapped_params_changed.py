"""wrapped-params-changed: found where it is, silent on what looks like it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from loopkit import Confidence, Severity
from tests.loops import loss_of
from tests.replicas import Net, Work, data, on_ranks
from tests.watched import find, line_of, rules


def _train(net: nn.Module, ddp: DistributedDataParallel, rank: int, *, by_hand: bool = False) -> None:
    optimizer = torch.optim.SGD([each for each in net.parameters() if each.requires_grad], lr=0.1)
    for x, y in data(rank):
        optimizer.zero_grad()
        loss_of(ddp(x), y).backward()
        if by_hand:
            for parameter in net.parameters():
                dist.all_reduce(parameter.grad)
        optimizer.step()


def cast_after_the_wrap(rank: int) -> None:
    net = Net()
    ddp = DistributedDataParallel(net)
    net.double().float()
    _train(net, ddp, rank)


def _unfrozen(net: Net) -> None:
    net.backbone.requires_grad_(True)


def _new_head(net: Net) -> None:
    torch.manual_seed(5)
    net.head = nn.Linear(8, 2)


def changed(change: Callable[[Net], object], *, frozen: bool = False) -> Work:
    def work(rank: int) -> None:
        net = Net()
        net.backbone.requires_grad_(not frozen)
        ddp = DistributedDataParallel(net)
        change(net)
        _train(net, ddp, rank)

    return work


SNAPSHOTS = {"wrapped-params-changed": lambda: on_ranks(cast_after_the_wrap)}


def test_found_at_the_wrap() -> None:
    (finding,) = find(lambda: on_ranks(cast_after_the_wrap))
    assert finding.rule == "wrapped-params-changed"
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(cast_after_the_wrap, "DistributedDataParallel(net)")
    assert "4 parameters, backbone.weight first, were moved or cast after the model was wrapped" in finding.seen
    assert finding.evidence["ranks"] == [0, 1]


def test_found_when_unfrozen() -> None:
    (finding,) = find(lambda: on_ranks(changed(_unfrozen, frozen=True)))
    assert finding.rule == "wrapped-params-changed"
    assert finding.evidence["parameters"] == ["backbone.weight", "backbone.bias"]
    assert finding.evidence["reasons"] == ["unfrozen"]


def test_found_when_put_in() -> None:
    def work(rank: int) -> None:
        net = Net()
        ddp = DistributedDataParallel(net, find_unused_parameters=True)
        _new_head(net)
        _train(net, ddp, rank)

    (finding,) = find(lambda: on_ranks(work))
    assert finding.evidence["reasons"] == ["put in"]


def no_change(net: Net) -> None:
    pass


def conversions_that_change_nothing(net: Net) -> None:
    net.float().to("cpu")
    net.train()


def frozen_after_the_wrap(net: Net) -> None:
    net.backbone.bias.requires_grad_(False)


def loaded_after_the_wrap(net: Net) -> None:
    net.load_state_dict(Net().state_dict())


@pytest.mark.parametrize(
    "change", [no_change, conversions_that_change_nothing, loaded_after_the_wrap], ids=lambda each: str(each.__name__)
)
def test_silent_on(change: Callable[[Net], object]) -> None:
    assert rules(lambda: on_ranks(changed(change))) == []


def test_silent_on_layers_that_stay_frozen() -> None:
    assert "wrapped-params-changed" not in rules(lambda: on_ranks(changed(no_change, frozen=True)))


def test_silent_where_the_model_is_wrapped_again() -> None:
    def work(rank: int) -> None:
        net = Net()
        net.backbone.requires_grad_(False)
        first = DistributedDataParallel(net)
        _train(net, first, rank)
        net.backbone.requires_grad_(True)
        _train(net, DistributedDataParallel(net), rank)

    assert "wrapped-params-changed" not in rules(lambda: on_ranks(work))


def test_silent_on_parameters_that_ddp_is_told_to_ignore() -> None:
    def work(rank: int) -> None:
        net = Net()
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(net, ["head.bias"])
        ddp = DistributedDataParallel(net)
        net.head.bias.data = net.head.bias.data.double().float()
        _train(net, ddp, rank)

    assert "wrapped-params-changed" not in rules(lambda: on_ranks(work))


def test_silent_where_gradients_are_averaged_by_hand() -> None:
    def work(rank: int) -> None:
        net = Net()
        ddp = DistributedDataParallel(net)
        net.double().float()
        _train(net, ddp, rank, by_hand=True)

    assert "wrapped-params-changed" not in rules(lambda: on_ranks(work))


def test_silent_on_one_rank() -> None:
    assert rules(lambda: on_ranks(cast_after_the_wrap, ranks=1)) == []
