"""missing-zero-grad: found where it is, silent on what looks like it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from loopkit import Confidence, Severity
from tests.loops import adamw, batches, loader, loss_of, model
from tests.watched import find, line_of, rules


def never_clears() -> None:
    net = model()
    optimizer = adamw(net)
    for x, y in loader():
        loss_of(net(x), y).backward()
        optimizer.step()


SNAPSHOTS = {"missing-zero-grad": never_clears}


def test_found_at_the_backward_with_both_ends_by_the_second_update() -> None:
    (finding,) = find(never_clears)
    assert finding.rule == "missing-zero-grad"
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(never_clears, "backward()")
    assert finding.places["step that had used them"].line == line_of(never_clears, "optimizer.step()")
    assert finding.step == 2
    assert finding.count == 3  # four updates, the first of them innocent
    assert "4 of 4 parameters of AdamW" in finding.seen


@pytest.mark.parametrize("kind", ["foreach", "fused", "neither"])
def test_found_with_every_implementation_of_adamw(kind: str) -> None:
    def loop() -> None:
        net = model()
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, fused=kind == "fused", foreach=kind == "foreach")
        for x, y in loader():
            loss_of(net(x), y).backward()
            optimizer.step()

    assert rules(loop) == ["missing-zero-grad"]


def test_found_when_it_begins_at_step_500() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for step, (x, y) in enumerate(batches(520)):
            if step < 500:
                optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()

    (finding,) = find(loop)
    assert (finding.rule, finding.step, finding.count) == ("missing-zero-grad", 501, 20)


def test_found_for_the_second_of_two_optimizers_alone() -> None:
    def loop() -> None:
        encoder, decoder = nn.Linear(4, 3), nn.Linear(3, 2)
        first = torch.optim.SGD(encoder.parameters(), lr=0.1)
        second = torch.optim.Adam(decoder.parameters(), lr=0.1)
        for x, y in loader():
            first.zero_grad()
            loss_of(decoder(encoder(x)), y).backward()
            first.step()
            second.step()

    (finding,) = find(loop)
    assert finding.subject == "Adam #2"
    assert "2 of 2 parameters of Adam #2" in finding.seen


def test_found_when_only_part_of_the_parameters_is_cleared() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for x, y in loader():
            net[0].zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()

    (finding,) = find(loop)
    assert "2 of 4 parameters" in finding.seen


def test_found_when_the_watch_opens_after_the_optimizer_was_made() -> None:
    net = model()
    optimizer = adamw(net)

    def loop() -> None:
        for x, y in loader():
            loss_of(net(x), y).backward()
            optimizer.step()

    (finding,) = find(loop)
    assert (finding.rule, finding.step) == ("missing-zero-grad", 2)


def test_found_in_a_closure_that_forgets_to_clear() -> None:
    def loop() -> None:
        net = model()
        optimizer = torch.optim.LBFGS(net.parameters(), max_iter=2)
        for x, y in loader():

            def closure() -> torch.Tensor:
                loss = loss_of(net(x), y)
                loss.backward()
                return loss

            optimizer.step(closure)

    assert "missing-zero-grad" in rules(loop)


def _by_optimizer(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()


def _to_zero(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=False)


def _by_module(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    net.zero_grad()


def _by_hand_to_none(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for parameter in net.parameters():
        parameter.grad = None


def _by_hand_in_place(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for parameter in net.parameters():
        if parameter.grad is not None:
            parameter.grad.zero_()


def _by_hand_through_data(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for parameter in net.parameters():
        if parameter.grad is not None:
            parameter.grad.data.zero_()


def _replaced(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)


def _carried_over(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for parameter in net.parameters():
        if parameter.grad is not None:
            parameter.grad.mul_(0.9)


CLEARS = [
    _by_optimizer,
    _to_zero,
    _by_module,
    _by_hand_to_none,
    _by_hand_in_place,
    _by_hand_through_data,
    _replaced,
    _carried_over,
]


@pytest.mark.parametrize("clear", CLEARS)
@pytest.mark.parametrize("when", ["before backward", "after step"])
@pytest.mark.parametrize("window", [1, 3])
def test_silent_on_every_way_of_clearing(
    clear: Callable[[nn.Module, torch.optim.Optimizer], None], when: str, window: int
) -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for i, (x, y) in enumerate(batches(20 * window)):
            if when == "before backward" and i % window == 0:
                clear(net, optimizer)
            loss_of(net(x), y).backward()
            if i % window == window - 1:
                optimizer.step()
                if when == "after step":
                    clear(net, optimizer)

    assert rules(loop) == []


def test_silent_on_several_losses_before_one_step() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for x, y in loader():
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            net(x).square().mean().backward()
            optimizer.step()

    assert rules(loop) == []


def test_silent_on_dcgan_where_each_player_fills_the_other() -> None:
    def loop() -> None:
        generator, critic = nn.Linear(3, 4), nn.Linear(4, 1)
        for_generator = torch.optim.Adam(generator.parameters())
        for_critic = torch.optim.Adam(critic.parameters())
        for x, _ in loader(samples=40):
            critic.zero_grad()
            critic(x).mean().backward()
            fake = generator(torch.randn(4, 3))
            critic(fake.detach()).mean().neg().backward()
            for_critic.step()
            generator.zero_grad()
            critic(fake).mean().backward()
            for_generator.step()

    assert rules(loop) == []


@pytest.mark.filterwarnings("ignore:Using backward")
def test_silent_on_gradients_kept_with_their_graph() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for x, y in loader():
            optimizer.zero_grad()
            loss_of(net(x), y).backward(create_graph=True)
            optimizer.step()

    assert "missing-zero-grad" not in rules(loop)
