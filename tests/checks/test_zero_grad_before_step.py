"""zero-grad-before-step: found where it is, silent on what looks like it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import loopkit
from tests.loops import adamw, batches, loader, loss_of, model
from tests.watched import find, line_of, rules


def clears_too_early() -> None:
    net = model()
    optimizer = adamw(net)
    for x, y in loader():
        loss_of(net(x), y).backward()
        optimizer.zero_grad()
        optimizer.step()


def test_found_at_the_clear_with_all_ends_in_the_first_update() -> None:
    (finding,) = find(clears_too_early)
    assert finding.rule == "zero-grad-before-step"
    assert finding.place is not None
    assert finding.place.line == line_of(clears_too_early, "zero_grad()")
    assert finding.places["step"].line == line_of(clears_too_early, "optimizer.step()")
    assert finding.places["backward"].line == line_of(clears_too_early, "backward()")
    assert (finding.step, finding.count) == (1, 4)
    assert "4 of 4 parameters of AdamW" in finding.seen


def test_found_when_the_clear_sets_zeros() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for x, y in loader():
            loss_of(net(x), y).backward()
            optimizer.zero_grad(set_to_none=False)
            optimizer.step()

    assert rules(loop) == ["zero-grad-before-step"]


def test_found_when_the_module_clears() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for x, y in loader():
            loss_of(net(x), y).backward()
            net.zero_grad()
            optimizer.step()

    assert rules(loop) == ["zero-grad-before-step"]


def test_found_at_the_step_when_cleared_by_hand() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for x, y in loader():
            loss_of(net(x), y).backward()
            for parameter in net.parameters():
                parameter.grad = None
            optimizer.step()

    (finding,) = find(loop)
    assert finding.rule == "zero-grad-before-step"
    assert finding.place is not None
    assert finding.place.line == line_of(loop, "optimizer.step()")
    assert "by hand" in finding.seen


def test_found_for_one_of_two_optimizers_on_one_backward() -> None:
    def loop() -> None:
        encoder, decoder = nn.Linear(4, 3), nn.Linear(3, 2)
        first = torch.optim.SGD(encoder.parameters(), lr=0.1)
        second = torch.optim.Adam(decoder.parameters(), lr=0.1)
        for x, y in loader():
            second.zero_grad()
            loss_of(decoder(encoder(x)), y).backward()
            first.zero_grad()
            first.step()
            second.step()

    (finding,) = find(loop)
    assert (finding.rule, finding.subject) == ("zero-grad-before-step", "SGD")


def wipes_its_window() -> None:
    net = model()
    optimizer = adamw(net)
    for i, (x, y) in enumerate(loader(samples=48)):
        optimizer.zero_grad()
        (loss_of(net(x), y) / 4).backward()
        if i % 4 == 3:
            optimizer.step()


SNAPSHOTS = {"zero-grad-before-step": clears_too_early, "zero-grad-before-step-window": wipes_its_window}


def test_found_inside_an_accumulation_window_by_the_second_update() -> None:
    (finding,) = find(wipes_its_window)
    assert finding.rule == "zero-grad-before-step"
    assert finding.place is not None
    assert finding.place.line == line_of(wipes_its_window, "zero_grad()")
    assert finding.step == 2
    assert "of 4 backwards" in finding.seen
    assert "3 were cleared unused; the step used 1" in finding.seen


def test_found_in_a_window_without_a_loader() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for i, (x, y) in enumerate(batches(40)):
            loss_of(net(x), y).backward()
            if i % 2 == 1:
                optimizer.step()
            optimizer.zero_grad()

    assert rules(loop) == ["zero-grad-before-step"]


def test_silent_on_a_bad_batch_that_is_skipped_now_and_then() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for i, (x, y) in enumerate(loader(samples=120)):
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            if i % 3 == 0:
                continue
            optimizer.step()

    assert rules(loop) == []


def test_silent_on_a_throw_away_backward_before_training() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        loss_of(net(torch.randn(4, 4)), torch.randn(4, 2)).backward()
        optimizer.zero_grad()
        for x, y in loader():
            loss_of(net(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()

    assert rules(loop) == []


def test_silent_on_sam_written_by_hand() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for x, y in loader():
            with torch.no_grad():
                before = [parameter.clone() for parameter in net.parameters()]
            for climb in (True, False):
                optimizer.zero_grad()
                loss_of(net(x), y).backward()
                with torch.no_grad():
                    for parameter, kept in zip(net.parameters(), before, strict=True):
                        assert parameter.grad is not None
                        parameter.copy_(kept + 0.05 * parameter.grad if climb else kept)
            optimizer.step()

    assert rules(loop) == []


def test_no_write_is_suspected_where_the_weights_were_moved() -> None:
    net = model()
    with loopkit.watch(skip=["console"]) as run:
        optimizer = adamw(net)
        for x, y in loader():
            loss_of(net(x), y).backward()
            with torch.no_grad():
                climb = [0.05 * each.grad for each in net.parameters() if each.grad is not None]
                for each, by in zip(net.parameters(), climb, strict=True):
                    each.add_(by)
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            with torch.no_grad():
                for each, by in zip(net.parameters(), climb, strict=True):
                    each.sub_(by)
            optimizer.step()
            optimizer.zero_grad()
    assert run.findings == []
    assert run.not_checked() == []


def test_silent_on_gradients_collected_for_each_sample_and_written_by_hand() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for x, y in loader():
            total = [torch.zeros_like(parameter) for parameter in net.parameters()]
            for sample, target in zip(x, y, strict=True):
                optimizer.zero_grad()
                loss_of(net(sample[None]), target[None]).backward()
                for kept, parameter in zip(total, net.parameters(), strict=True):
                    assert parameter.grad is not None
                    kept += parameter.grad.clamp(-1, 1)
            for kept, parameter in zip(total, net.parameters(), strict=True):
                parameter.grad = kept
            optimizer.step()

    assert rules(loop) == []


def test_silent_on_a_clear_of_what_the_other_player_left() -> None:
    def loop() -> None:
        generator, critic = nn.Linear(3, 4), nn.Linear(4, 1)
        for_generator = torch.optim.Adam(generator.parameters())
        for_critic = torch.optim.Adam(critic.parameters())
        for _ in range(8):
            fake = generator(torch.randn(4, 3))
            critic(fake).mean().backward(retain_graph=True)
            for_critic.step()
            for_critic.zero_grad()
            for_generator.zero_grad()
            critic(generator(torch.randn(4, 3))).mean().neg().backward()
            for_generator.step()
            for_generator.zero_grad()
            for_critic.zero_grad()

    assert rules(loop) == []


def test_silent_on_steps_a_scaler_skipped() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120, growth_interval=1000)
        for x, y in loader(samples=80):
            optimizer.zero_grad()
            scaler.scale(loss_of(net(x), y) * 1e10).backward()
            scaler.step(optimizer)
            scaler.update()

    assert "zero-grad-before-step" not in rules(loop)  # it skips all twenty


@pytest.mark.parametrize("then", ["clip", "unscale"])
def test_found_when_cleared_by_hand_before_gradients_change_in_place(then: str) -> None:
    def loop() -> None:
        net = model()
        idle = nn.Parameter(torch.ones(1))
        optimizer = torch.optim.SGD([*net.parameters(), idle], lr=0.1)
        scaler = torch.amp.GradScaler("cpu")
        for x, y in loader():
            optimizer.zero_grad()
            scaler.scale(loss_of(net(x), y)).backward()
            for parameter in net.parameters():
                parameter.grad = None
            idle.grad = torch.ones(1)  # a scaler refuses to unscale no gradient at all
            if then == "clip":
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            else:
                scaler.unscale_(optimizer)
                scaler.update()
            idle.grad = None
            optimizer.step()

    (finding,) = find(loop)
    assert finding.rule == "zero-grad-before-step"
    assert "by hand" in finding.seen
