"""train-in-eval-mode: found where it is, silent on what looks like it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from loopkit import Confidence, Severity
from tests.loops import adamw, batches, loss_of
from tests.watched import find, line_of, rules


def with_both() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 2))


def epoch(net: nn.Module, optimizer: torch.optim.Optimizer, count: int = 4) -> None:
    for x, y in batches(count):
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()


def never_switched_back() -> None:
    net = with_both()
    optimizer = adamw(net)
    for _ in range(3):
        for x, y in batches(6):
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()
        net.eval()
        with torch.no_grad():
            net(torch.randn(4, 4))


def after_a_sanity_check() -> None:
    net = with_both()
    optimizer = adamw(net)
    net.eval()
    with torch.no_grad():
        net(torch.randn(4, 4))
    epoch(net, optimizer)


SNAPSHOTS = {"train-in-eval-mode": never_switched_back}


def test_found_at_the_backward_of_the_second_epoch() -> None:
    (finding,) = find(never_switched_back)
    assert finding.rule == "train-in-eval-mode"
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(never_switched_back, "backward()")
    assert finding.places["eval"].line == line_of(never_switched_back, "net.eval()")
    assert finding.step in (7, 8)
    assert "2 layers" in finding.seen


def test_found_after_a_check_before_training() -> None:
    (finding,) = find(after_a_sanity_check)
    assert (finding.rule, finding.severity, finding.step) == ("train-in-eval-mode", Severity.ERROR, 1)


def test_found_late_in_a_run() -> None:
    def loop() -> None:
        net = with_both()
        optimizer = adamw(net)
        epoch(net, optimizer, 50)
        net.eval()
        with torch.no_grad():
            net(torch.randn(4, 4))
        epoch(net, optimizer, 10)

    assert rules(loop) == ["train-in-eval-mode"]


def test_a_new_batch_normalisation_put_to_sleep_is_a_warning() -> None:
    def loop() -> None:
        net = with_both().eval()
        epoch(net, adamw(net))

    (finding,) = find(loop)
    assert (finding.severity, finding.evidence["statistics_of_a_new_layer"]) == (Severity.WARNING, 1)


def test_where_it_may_be_meant_it_is_info() -> None:
    def loop() -> None:
        net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 2))
        net.eval()
        epoch(net, adamw(net))

    (finding,) = find(loop)
    assert (finding.severity, finding.confidence) == (Severity.INFO, Confidence.FACT)


def test_where_it_is_said_again_at_each_epoch_it_is_meant() -> None:
    def loop() -> None:
        net = with_both()
        optimizer = adamw(net)
        epoch(net, optimizer)
        for _ in range(3):
            net.eval()
            with torch.no_grad():
                net(torch.randn(4, 4))
            net.eval()  # statistics stay as they are from now on
            epoch(net, optimizer)

    (finding,) = find(loop)
    assert finding.severity == Severity.INFO


def test_an_evaluation_in_the_mode_of_training_does_not_make_it_a_mistake() -> None:
    def loop() -> None:
        net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 2)).eval()
        optimizer = adamw(net)
        for _ in range(3):
            epoch(net, optimizer)
            with torch.no_grad():
                net(torch.randn(4, 4))

    (finding,) = find(loop)
    assert finding.severity == Severity.INFO


def test_silent_on_a_loop_that_switches() -> None:
    def loop() -> None:
        net = with_both()
        optimizer = adamw(net)
        for _ in range(4):
            net.train()
            epoch(net, optimizer)
            net.eval()
            with torch.no_grad():
                net(torch.randn(4, 4))

    assert rules(loop) == []


def test_silent_on_a_gradient_of_an_evaluation_that_trains_nothing() -> None:
    def loop() -> None:
        net = with_both()
        optimizer = adamw(net)
        for _ in range(3):
            net.eval()
            net(torch.randn(4, 4))  # without no_grad
            net.train()
            epoch(net, optimizer)

    assert "train-in-eval-mode" not in rules(loop)


@pytest.mark.parametrize("asleep", ["norm", "backbone", "all but the root"])
def test_silent_where_parts_sleep(asleep: str) -> None:
    def loop() -> None:
        backbone, head = with_both(), nn.Linear(2, 2)
        net = nn.Sequential(backbone, head)
        for _ in range(3):
            net.train()
            if asleep == "norm":
                backbone[1].eval()
            elif asleep == "backbone":
                backbone.eval().requires_grad_(False)
            else:
                backbone.eval()
            epoch(net, torch.optim.SGD([each for each in net.parameters() if each.requires_grad], 0.1))

    assert rules(loop) == []


def test_silent_on_a_frozen_backbone_below_a_root_in_evaluation_mode() -> None:
    def loop() -> None:
        backbone, head = with_both(), nn.Linear(2, 2)
        net = nn.Sequential(backbone.requires_grad_(False), head).eval()
        with torch.no_grad():
            net(torch.randn(4, 4))
        epoch(net, adamw(head))

    assert rules(loop) == []


def test_silent_without_layers_that_depend_on_the_mode() -> None:
    def loop() -> None:
        net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Dropout(0.0), nn.Linear(8, 2)).eval()
        with torch.no_grad():
            net(torch.randn(4, 4))
        epoch(net, adamw(net))

    assert rules(loop) == []


def test_silent_on_optimized_inputs() -> None:
    def loop() -> None:
        net = with_both().eval()
        image = torch.randn(4, 4, requires_grad=True)
        optimizer = torch.optim.Adam([image])
        with torch.no_grad():
            net(image)
        for _ in range(4):
            optimizer.zero_grad()
            net(image).square().sum().backward()
            optimizer.step()

    assert "train-in-eval-mode" not in rules(loop)
