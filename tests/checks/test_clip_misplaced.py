"""clip-misplaced: found where it is, silent on what looks like it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from loopkit import Confidence, Severity
from tests.loops import adamw, batches, loader, loss_of, model
from tests.watched import find, line_of, rules

SMALL = 1e-4
"""A limit that every gradient here exceeds."""


def clips_before_backward() -> None:
    net = model()
    optimizer = adamw(net)
    for x, y in loader():
        optimizer.zero_grad()
        loss = loss_of(net(x), y)
        clip_grad_norm_(net.parameters(), 1.0)
        loss.backward()
        optimizer.step()


def clips_after_the_step() -> None:
    net = model()
    optimizer = adamw(net)
    for x, y in loader():
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()
        clip_grad_norm_(net.parameters(), SMALL)


def clips_each_micro_batch() -> None:
    net = model()
    optimizer = adamw(net)
    for i, (x, y) in enumerate(loader(samples=32)):
        (loss_of(net(x), y) / 4).backward()
        clip_grad_norm_(net.parameters(), SMALL)
        if i % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()


SNAPSHOTS = {
    "clip-misplaced": clips_before_backward,
    "clip-misplaced-after": clips_after_the_step,
    "clip-misplaced-window": clips_each_micro_batch,
}


@pytest.mark.parametrize(
    ("loop", "words"),
    [
        (clips_before_backward, "backward came later"),
        (clips_after_the_step, "to 0.0001 after the step at"),
        (clips_each_micro_batch, "to 0.0001 inside an accumulation window of 4 backwards"),
    ],
)
def test_found_at_the_clip(loop: Callable[[], None], words: str) -> None:
    (finding,) = find(loop)
    assert finding.rule == "clip-misplaced"
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.FACT)
    assert finding.place is not None
    assert finding.place.line == line_of(loop, "clip_grad_norm_")
    assert finding.places["step"].line == line_of(loop, "optimizer.step()")
    assert words in finding.seen


def test_found_when_all_is_cleared_to_zero_and_when_it_is_clipped_by_value() -> None:
    def to_zero() -> None:
        net = model()
        optimizer = adamw(net)
        for x, y in batches(8):
            optimizer.zero_grad(set_to_none=False)
            loss = loss_of(net(x), y)
            clip_grad_norm_(net.parameters(), 1.0)
            loss.backward()
            optimizer.step()

    def by_value() -> None:
        net = model()
        optimizer = adamw(net)
        for x, y in batches(8):
            optimizer.zero_grad(set_to_none=False)
            loss = loss_of(net(x), y)
            if next(net.parameters()).grad is not None:  # it raises where there are none
                torch.nn.utils.clip_grad_value_(net.parameters(), 1.0)
            loss.backward()
            optimizer.step()

    assert rules(to_zero) == ["clip-misplaced"]
    assert rules(by_value) == ["clip-misplaced"]


def test_found_when_only_the_first_of_two_micro_batches_is_clipped() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for i, (x, y) in enumerate(batches(8)):
            loss_of(net(x), y).backward()
            if i % 2 == 0:
                clip_grad_norm_(net.parameters(), SMALL)
            else:
                optimizer.step()
                optimizer.zero_grad()

    assert rules(loop) == ["clip-misplaced"]


# -- what looks like it ----------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [float("inf"), 1e9])
@pytest.mark.parametrize("after", [True, False])
def test_silent_on_a_clip_that_only_reads_the_norm(limit: float, after: bool) -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for x, y in loader():
            optimizer.zero_grad()
            loss = loss_of(net(x), y)
            if not after:
                clip_grad_norm_(net.parameters(), limit)
            loss.backward()
            optimizer.step()
            if after:
                clip_grad_norm_(net.parameters(), limit)

    assert rules(loop) == []


def test_silent_where_a_clip_cut_nothing_and_where_each_loss_has_its_own() -> None:
    def cut_nothing() -> None:
        net = model()
        optimizer = adamw(net)
        for i, (x, y) in enumerate(batches(16)):
            (loss_of(net(x), y) / 4).backward()
            clip_grad_norm_(net.parameters(), 1e4)
            if i % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()

    def of_each_loss() -> None:
        net = model()
        optimizer = adamw(net)
        for x, y in batches(8):
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            clip_grad_norm_(net.parameters(), SMALL)
            net(x).square().mean().backward()
            optimizer.step()

    def of_each_task() -> None:
        net = model()
        optimizer = adamw(net)
        for x, y in loader(samples=32):
            optimizer.zero_grad()
            out = net(x)
            for task in range(2):
                loss_of(out[:, task], y[:, task]).backward(retain_graph=True)
                clip_grad_norm_(net.parameters(), SMALL)
            optimizer.step()

    assert rules(cut_nothing) == []
    assert rules(of_each_loss) == []
    assert rules(of_each_task) == []


def test_silent_on_the_textbook_window_and_on_a_step_at_the_top_of_the_loop() -> None:
    def window() -> None:
        net = model()
        optimizer = adamw(net)
        for i, (x, y) in enumerate(batches(16)):
            (loss_of(net(x), y) / 4).backward()
            if i % 4 == 3:
                clip_grad_norm_(net.parameters(), SMALL)
                optimizer.step()
                optimizer.zero_grad()

    def top() -> None:
        net = model()
        optimizer = adamw(net)
        for x, y in batches(16):
            clip_grad_norm_(net.parameters(), SMALL)
            optimizer.step()
            optimizer.zero_grad()
            loss_of(net(x), y).backward()

    assert rules(window) == []
    assert "clip-misplaced" not in rules(top)


def test_silent_on_players_with_a_clip_each_and_on_one_for_all() -> None:
    def loop() -> None:
        generator, critic = nn.Linear(3, 4), model()
        for_generator, for_critic = adamw(generator), adamw(critic)
        both = [*generator.parameters(), *critic.parameters()]
        for i, (x, _) in enumerate(batches(12)):
            fake = generator(torch.randn(4, 3))
            for_critic.zero_grad()
            (critic(fake.detach()).mean() - critic(x).mean()).backward()
            clip_grad_norm_(both if i % 2 else critic.parameters(), SMALL)
            for_critic.step()
            for_generator.zero_grad()
            (-critic(fake).mean()).backward()
            clip_grad_norm_(both if i % 2 else generator.parameters(), SMALL)
            for_generator.step()

    assert rules(loop) == []


def test_silent_on_clips_of_samples_and_in_gradient_hooks() -> None:
    def samples() -> None:
        net = model()
        optimizer = adamw(net)
        for x, y in batches(4):
            total = [torch.zeros_like(each) for each in net.parameters()]
            for i in range(len(x)):
                net.zero_grad()
                loss_of(net(x[i : i + 1]), y[i : i + 1]).backward()
                clip_grad_norm_(net.parameters(), SMALL)
                for sum_, each in zip(total, net.parameters(), strict=True):
                    assert each.grad is not None
                    sum_ += each.grad
            for sum_, each in zip(total, net.parameters(), strict=True):
                each.grad = sum_
            optimizer.step()

    def hooks() -> None:
        net = model()
        optimizer = adamw(net)
        for each in net.parameters():
            each.register_post_accumulate_grad_hook(lambda p: clip_grad_value_([p], SMALL))
        for x, y in batches(8):
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()

    assert "clip-misplaced" not in rules(samples)
    assert "clip-misplaced" not in rules(hooks)


def test_silent_on_an_optimizer_that_steps_less_often_under_a_clip_of_all() -> None:
    def loop() -> None:
        body, head = nn.Linear(4, 3), nn.Linear(3, 2)
        rarely, often = adamw(body), adamw(head)
        for i, (x, y) in enumerate(batches(16)):
            loss_of(head(body(x)), y).backward()
            clip_grad_norm_([*body.parameters(), *head.parameters()], SMALL)
            often.step()
            often.zero_grad()
            if i % 2:
                rarely.step()
                rarely.zero_grad()

    assert rules(loop) == []
