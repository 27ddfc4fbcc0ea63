"""clip-covers-wrong-params: found where it is, silent on what looks like it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from loopkit import Confidence, Severity
from tests.loops import adamw, loader, loss_of, model
from tests.watched import find, line_of, rules


def clips_the_reference() -> None:
    policy = model()
    reference = copy.deepcopy(policy)
    optimizer = adamw(policy)
    for x, y in loader():
        optimizer.zero_grad()
        loss_of(policy(x), y).backward()
        clip_grad_norm_(reference.parameters(), 1.0)
        optimizer.step()


SNAPSHOTS = {"clip-covers-wrong-params": clips_the_reference}


def test_found_at_the_clip() -> None:
    (finding,) = find(clips_the_reference)
    assert finding.rule == "clip-covers-wrong-params"
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.FACT)
    assert finding.place is not None
    assert finding.place.line == line_of(clips_the_reference, "clip_grad_norm_")
    assert finding.step == 1
    assert "given 4 parameters that belong to no optimizer" in finding.seen
    assert "the 4 parameters of AdamW" in finding.seen


def test_found_in_a_generator_that_is_used_up_and_in_an_empty_list() -> None:
    def generator() -> None:
        net = model()
        parameters = net.parameters()
        optimizer = torch.optim.AdamW(parameters, lr=0.01)
        for x, y in loader():
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            clip_grad_norm_(parameters, 1.0)
            optimizer.step()

    def filtered() -> None:
        net = model()
        optimizer = adamw(net)
        for x, y in loader():
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            clip_grad_norm_([each for each in net.parameters() if not each.requires_grad], 1.0)
            optimizer.step()

    with pytest.warns(UserWarning, match="empty generator"):
        (finding,) = find(generator)
    assert "given nothing" in finding.seen
    assert rules(filtered) == ["clip-covers-wrong-params"]


# -- what looks like it ----------------------------------------------------------------------------------


def test_silent_on_parts_on_unions_and_on_reading_the_norm() -> None:
    def loop() -> None:
        net, reference = model(), model()
        optimizer = adamw(net)
        for i, (x, y) in enumerate(loader(samples=48)):
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            if i % 3 == 0:
                clip_grad_norm_(list(net.parameters())[:1], 1.0)
            elif i % 3 == 1:
                clip_grad_norm_(reference.parameters(), 1.0)
                clip_grad_norm_(net.parameters(), 1.0)
            else:
                clip_grad_norm_(reference.parameters(), float("inf"))
            optimizer.step()

    assert rules(loop) == []


def test_silent_on_two_players_of_which_one_is_clipped() -> None:
    def loop() -> None:
        generator, critic = nn.Linear(3, 4), model()
        for_generator, for_critic = adamw(generator), adamw(critic)
        for x, _ in loader(samples=40):
            fake = generator(torch.randn(4, 3))
            for_critic.zero_grad()
            (critic(fake.detach()).mean() - critic(x).mean()).backward()
            clip_grad_norm_(critic.parameters(), 0.01)
            for_critic.step()
            for_generator.zero_grad()
            (-critic(fake).mean()).backward()
            clip_grad_norm_(critic.parameters(), 0.01)
            for_generator.step()

    assert "clip-covers-wrong-params" not in rules(loop)


def test_silent_on_master_copies() -> None:
    def loop() -> None:
        net = model()
        master = [each.detach().double().requires_grad_() for each in net.parameters()]
        optimizer = torch.optim.SGD(master, lr=0.1)
        for x, y in loader():
            net.zero_grad()
            loss_of(net(x), y).backward()
            clip_grad_norm_(net.parameters(), 1.0)
            for each, own in zip(master, net.parameters(), strict=True):
                assert own.grad is not None
                each.grad = own.grad.double()
            optimizer.step()
            for each, own in zip(master, net.parameters(), strict=True):
                own.data.copy_(each.data)

    assert rules(loop) == []
