"""grads-never-consumed: found where it is, silent on what looks like it."""

from __future__ import annotations

import pytest
import torch

from loopkit import Confidence, Severity
from tests.loops import adamw, batches, loader, loss_of, model
from tests.watched import find, line_of, rules

RULE = "grads-never-consumed"


def never_steps() -> None:
    net = model()
    optimizer = adamw(net)
    for _ in range(3):
        for x, y in loader():
            optimizer.zero_grad()
            loss_of(net(x), y).backward()


SNAPSHOTS = {"grads-never-consumed": never_steps}


def test_found_at_the_backward_at_the_end_of_the_run() -> None:
    (finding,) = find(never_steps)
    assert finding.rule == RULE
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(never_steps, "backward()")
    assert "12 backwards" in finding.seen
    assert "4 of 4 parameters of AdamW" in finding.seen


def test_found_without_a_clear_and_without_a_loader() -> None:
    def uncleared() -> None:
        net = model()
        optimizer = adamw(net)
        for _ in range(3):
            data = loader()
            for x, y in data:
                loss_of(net(x), y).backward()
        assert optimizer

    def without_loader() -> None:
        net = model()
        optimizer = adamw(net)
        for x, y in batches(40):
            optimizer.zero_grad()
            loss_of(net(x), y).backward()

    assert RULE in rules(without_loader)
    assert RULE in rules(uncleared)


def test_found_when_the_step_is_in_a_branch_that_is_never_taken() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        data = loader()
        for _ in range(4):
            for i, (x, y) in enumerate(data):
                loss_of(net(x), y).backward()
                if i % 8 == 7:
                    optimizer.step()
                    optimizer.zero_grad()

    assert rules(loop) == [RULE]


# -- what looks like it ----------------------------------------------------------------------------------


def test_silent_on_one_pass_that_measures_what_matters_to_a_task() -> None:
    def fisher() -> None:
        net = model()
        optimizer = adamw(net)  # came with the checkpoint
        importance = [torch.zeros_like(p) for p in net.parameters()]
        for x, y in loader(samples=40):
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            for sum_, parameter in zip(importance, net.parameters(), strict=True):
                assert parameter.grad is not None
                sum_ += parameter.grad.square()

    assert rules(fisher) == []


def test_silent_on_a_window_of_an_epoch_and_on_one_that_is_cut_short() -> None:
    def epoch() -> None:
        net = model()
        optimizer = adamw(net)
        for _ in range(2):
            optimizer.zero_grad()
            for x, y in loader(samples=48):
                (loss_of(net(x), y) / 12).backward()
            optimizer.step()

    def cut_short() -> None:
        net = model()
        optimizer = adamw(net)
        for i, (x, y) in enumerate(loader(samples=100)):
            loss_of(net(x), y).backward()
            if i == 20:
                break
        assert optimizer

    assert rules(epoch) == []
    assert rules(cut_short) == []


@pytest.mark.parametrize("through_data", [True, False])
def test_silent_on_updates_by_hand_beside_an_optimizer_that_is_not_used(through_data: bool) -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for _ in range(4):
            for x, y in loader():
                optimizer.zero_grad()
                loss_of(net(x), y).backward()
                for parameter in net.parameters():
                    assert parameter.grad is not None
                    if through_data:
                        parameter.data.add_(parameter.grad, alpha=-0.1)
                    else:
                        with torch.no_grad():
                            parameter.sub_(parameter.grad, alpha=0.1)

    assert rules(loop) == []


def test_silent_on_gradients_of_inputs_on_probes_without_an_optimizer_and_after_a_step() -> None:
    def saliency() -> None:
        net = model()
        optimizer = adamw(net)
        for _ in range(4):
            for x, y in loader():
                loss_of(net(x.requires_grad_()), y).backward()
        assert optimizer

    def probe() -> None:
        net = model()
        for _ in range(4):
            for x, y in loader():
                loss_of(net(x), y).backward()

    def fisher_after_training() -> None:
        net = model()
        optimizer = adamw(net)
        for x, y in loader():
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()
        for _ in range(4):
            for x, y in loader():
                net.zero_grad()
                loss_of(net(x), y).backward()

    assert rules(saliency) == []
    assert rules(probe) == []
    assert rules(fisher_after_training) == []
