"""stale-params-in-optimizer: found where the optimizer is made, silent on what looks like it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from loopkit import Confidence, Finding, Severity
from tests.loops import adamw, batches, loss_of, model
from tests.watched import find, line_of, rules

RULE = "stale-params-in-optimizer"


class Mix(nn.Module):
    """A weight that must not be negative."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.rand(4, 2))
        self.bias = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.mix + self.bias


def train(net: nn.Module, optimizer: torch.optim.Optimizer, count: int = 4) -> None:
    for x, y in batches(count):
        loss_of(net(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()


def assigned_each_step() -> None:
    net = Mix()
    optimizer = adamw(net)
    for _ in range(4):
        train(net, optimizer, 1)
        net.mix = nn.Parameter(net.mix.detach().clamp(min=0))


SNAPSHOTS = {RULE: assigned_each_step}


def only(found: list[Finding]) -> Finding:
    (finding,) = found
    assert finding.rule == RULE
    return finding


def test_found_where_a_weight_is_assigned_each_step() -> None:
    finding = only(find(assigned_each_step))
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(adamw, "AdamW(")  # the call that constructs
    assert finding.evidence["first"] == "Mix.mix"
    assert (finding.evidence["replaced"], finding.evidence["parameters"]) == (1, 1)


def test_found_where_the_head_was_replaced_before_training() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        net[2] = nn.Linear(8, 2)
        train(net, optimizer)

    finding = only(find(loop))
    assert finding.evidence["first"] == "Sequential.2.weight"
    assert finding.evidence["replaced"] == 2


def test_found_where_weights_were_loaded_by_assignment() -> None:
    def loop() -> None:
        net = Mix()
        optimizer = adamw(net)
        net.load_state_dict({"mix": nn.Parameter(torch.rand(4, 2))}, strict=False, assign=True)
        train(net, optimizer)

    assert only(find(loop)).evidence["first"] == "Mix.mix"


def test_found_where_it_was_replaced_in_mid_run() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        train(net, optimizer, 5)
        net[2] = nn.Linear(8, 2)
        train(net, optimizer, 20)

    assert only(find(loop)).evidence["replaced"] == 2


def test_found_where_the_whole_model_is_another() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        train(copy.deepcopy(net), optimizer)
        assert net is not None

    assert RULE in rules(loop)


def test_silent_where_the_optimizer_is_built_again() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        train(net, optimizer, 3)
        net[2] = nn.Linear(8, 2)
        optimizer = adamw(net)
        train(net, optimizer)

    assert rules(loop) == []


def test_silent_where_it_is_owned_again_a_little_later() -> None:
    def loop() -> None:
        net = model()
        first = adamw(net)
        net[2] = nn.Linear(8, 2)
        train(net, first, 2)
        second = torch.optim.AdamW(net[2].parameters(), lr=0.01)
        for x, y in batches():
            loss_of(net(x), y).backward()
            for each in (first, second):
                each.step()
                each.zero_grad()

    assert RULE not in rules(loop)


def test_silent_on_tensors_outside_of_modules() -> None:
    def loop() -> None:
        net = nn.Linear(4, 2)
        latent = nn.Parameter(torch.zeros(4, 4))
        scale = torch.ones((), requires_grad=True)
        optimizer = torch.optim.Adam([latent, scale, *net.parameters()])
        for _, y in batches():
            optimizer.zero_grad()
            loss_of(net(latent) * scale, y).backward()
            optimizer.step()

    assert rules(loop) == []


def test_silent_on_a_change_in_place_and_on_conversion() -> None:
    def loop() -> None:
        net = Mix()
        optimizer = adamw(net)
        for _ in range(4):
            train(net, optimizer, 1)
            with torch.no_grad():
                net.mix.clamp_(min=0)
            net.load_state_dict(copy.deepcopy(net.state_dict()))
        net.double().float()
        train(net, optimizer)

    assert rules(loop) == []


def test_silent_on_an_average_beside_the_model() -> None:
    def loop() -> None:
        net = Mix()
        average = copy.deepcopy(net)
        optimizer = adamw(net)
        for _ in range(4):
            train(net, optimizer, 1)
            with torch.no_grad():
                for one, other in zip(average.parameters(), net.parameters(), strict=True):
                    one.lerp_(other, 0.1)
                average(torch.randn(2, 4))

    assert rules(loop) == []


def test_silent_on_a_part_that_is_not_called_yet() -> None:
    def loop() -> None:
        one, other = nn.Linear(4, 2), nn.Linear(4, 2)
        optimizer = torch.optim.Adam([*one.parameters(), *other.parameters()])
        train(one, optimizer)
        train(other, optimizer)

    assert RULE not in rules(loop)


def test_silent_on_a_forgotten_layer_whose_shape_nothing_lost_has() -> None:
    def loop() -> None:
        net = model()
        train(net, torch.optim.Adam(net[0].parameters()))

    assert rules(loop) == ["params-not-in-optimizer"]
