"""cross-optimizer-grad-leak: found where it is, silent on what looks like it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from loopkit import Confidence, Severity
from tests.loops import adamw, batches, loader, loss_of, model
from tests.watched import find, line_of, rules


def generator_helps_the_critic() -> None:
    generator, critic = nn.Linear(3, 4), model()
    for_generator = torch.optim.Adam(generator.parameters())
    for_critic = torch.optim.AdamW(critic.parameters())
    for x, _ in loader():
        for_generator.zero_grad()
        for_critic.zero_grad()
        fake = generator(torch.randn(4, 3))
        d_loss = critic(fake).mean() - critic(x).mean()
        d_loss.backward(retain_graph=True)
        for_critic.step()
        g_loss = -critic(fake).mean()
        g_loss.backward()
        for_generator.step()


SNAPSHOTS = {"cross-optimizer-grad-leak": generator_helps_the_critic}


def test_found_at_the_backward_that_leaked_with_all_four_places() -> None:
    (finding,) = find(generator_helps_the_critic)
    assert finding.rule == "cross-optimizer-grad-leak"
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(generator_helps_the_critic, "d_loss.backward")
    assert finding.places["own backward"].line == line_of(generator_helps_the_critic, "g_loss.backward")
    assert finding.places["step it was for"].line == line_of(generator_helps_the_critic, "for_critic.step")
    assert finding.places["step"].line == line_of(generator_helps_the_critic, "for_generator.step")
    assert "2 of 2 parameters of Adam " in finding.seen
    assert "which AdamW #2 had used" in finding.seen
    assert finding.count == 4


def test_found_when_the_critic_clears_right_after_its_own_step() -> None:
    def loop() -> None:
        generator, critic = nn.Linear(3, 4), model()
        for_generator, for_critic = adamw(generator), adamw(critic)
        for x, _ in loader():
            (critic(generator(torch.randn(4, 3)).detach()).mean() - critic(x).mean()).backward()
            for_critic.step()
            for_critic.zero_grad()
            (-critic(generator(torch.randn(4, 3))).mean()).backward()
            for_generator.step()
            for_generator.zero_grad()

    (finding,) = find(loop)
    assert (finding.rule, finding.subject) == ("cross-optimizer-grad-leak", "AdamW #2")


def test_found_when_an_advantage_is_not_detached() -> None:
    def loop() -> None:
        actor, critic = nn.Linear(4, 2), nn.Linear(4, 1)
        for_actor, for_critic = adamw(actor), adamw(critic)
        for x, _ in loader():
            for_actor.zero_grad()
            for_critic.zero_grad()
            advantage = 1.0 - critic(x)
            (-(actor(x).log_softmax(-1)[:, :1] * advantage).mean()).backward()
            for_actor.step()
            (1.0 - critic(x)).square().mean().backward()
            for_critic.step()

    (finding,) = find(loop)
    assert finding.subject == "AdamW #2"


def test_found_when_it_begins_late() -> None:
    def loop() -> None:
        generator, critic = nn.Linear(3, 4), model()
        for_generator, for_critic = adamw(generator), adamw(critic)
        for i, (x, _) in enumerate(batches(70)):
            for_generator.zero_grad()
            for_critic.zero_grad()
            fake = generator(torch.randn(4, 3))
            (critic(fake).mean() - critic(x).mean()).backward(retain_graph=True)
            for_critic.step()
            if i < 50:
                for_generator.zero_grad()
            (-critic(fake).mean()).backward()
            for_generator.step()

    (finding,) = find(loop)
    assert finding.count == 20


# -- what looks like it ----------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 3])
def test_silent_on_one_backward_for_two_optimizers(window: int) -> None:
    def loop() -> None:
        encoder, decoder = nn.Linear(4, 3), nn.Linear(3, 2)
        first, second = adamw(encoder), adamw(decoder)
        for i, (x, y) in enumerate(batches(12)):
            loss_of(decoder(encoder(x)), y).backward()
            if i % window == window - 1:
                first.step()
                second.step()
                first.zero_grad()
                second.zero_grad()

    assert rules(loop) == []


@pytest.mark.parametrize("often_first", [True, False])
def test_silent_on_an_optimizer_that_steps_less_often(often_first: bool) -> None:
    def loop() -> None:
        encoder, decoder = nn.Linear(4, 3), nn.Linear(3, 2)
        rarely, often = adamw(encoder), adamw(decoder)
        for i, (x, y) in enumerate(batches(16)):
            loss_of(decoder(encoder(x)), y).backward()
            if often_first:
                often.step()
            if i % 2:
                rarely.step()
                rarely.zero_grad()
            if not often_first:
                often.step()
            often.zero_grad()

    assert rules(loop) == []


def test_silent_on_a_body_that_collects_from_the_tasks_of_its_heads() -> None:
    def loop() -> None:
        body, heads = nn.Linear(4, 3), [nn.Linear(3, 2) for _ in range(3)]
        for_body = adamw(body)
        for_heads = [adamw(head) for head in heads]
        for x, y in loader():
            for_body.zero_grad()
            for head, optimizer in zip(heads, for_heads, strict=True):
                optimizer.zero_grad()
                loss_of(head(body(x)), y).backward()
                optimizer.step()
            for_body.step()

    assert rules(loop) == []


def test_silent_on_leftovers_that_are_cleared_before_they_are_used() -> None:
    def loop() -> None:
        actor, critic = nn.Linear(4, 4), nn.Linear(4, 1)
        for_actor, for_critic = adamw(actor), adamw(critic)
        for x, _ in loader():
            for_critic.zero_grad()
            critic(x).square().mean().backward()
            for_critic.step()
            for_actor.zero_grad()
            (-critic(actor(x)).mean()).backward()
            for_actor.step()

    assert rules(loop) == []
