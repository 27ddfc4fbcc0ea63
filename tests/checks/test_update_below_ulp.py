"""update-below-ulp: an eps of 0, and updates that are rounded away."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from loopkit import Confidence, Severity
from tests.loops import batches
from tests.watched import find, line_of, rules

RULE = "update-below-ulp"


def train(net: nn.Module, optimizer: torch.optim.Optimizer, dtype: torch.dtype, steps: int = 16) -> None:
    for x, y in batches(steps):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(net(x.to(dtype)), y.to(dtype))
        loss.backward()
        optimizer.step()


def network(dtype: torch.dtype, scale: float = 1.0) -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 2)).to(dtype)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.where(parameter < 0, -scale, scale) * (1 + parameter.abs()))
    return net


def eps_of_zero() -> None:
    net = network(torch.float16)
    train(net, torch.optim.Adam(net.parameters(), lr=0.01, foreach=False), torch.float16, 2)


def rounded_away() -> None:
    net = network(torch.bfloat16)
    train(net, torch.optim.AdamW(net.parameters(), lr=1e-4), torch.bfloat16)


SNAPSHOTS = {RULE: rounded_away, "update-below-ulp-eps": eps_of_zero}


def test_an_eps_of_zero_is_found_at_the_first_step() -> None:
    found = next(each for each in find(eps_of_zero) if each.rule == RULE)
    assert (found.severity, found.confidence, found.step) == (Severity.ERROR, Confidence.PROOF, 1)
    assert found.place is not None
    assert found.place.line == line_of(train, "optimizer.step()")


def test_updates_that_vanish_are_found_once_they_were_looked_at() -> None:
    (found,) = [each for each in find(rounded_away) if each.rule == RULE]
    assert (found.severity, found.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert found.evidence["least_share_unmoved"] > 0.9


def test_a_part_that_vanishes_is_a_warning() -> None:
    def loop() -> None:
        net = network(torch.bfloat16)
        with torch.no_grad():
            net[0].bias.mul_(1e-3)  # type: ignore[index]
            net[2].weight[0].mul_(1e-3)  # type: ignore[index]
        train(net, torch.optim.AdamW(net.parameters(), lr=1e-3), torch.bfloat16)

    (found,) = [each for each in find(loop) if each.rule == RULE]
    assert found.severity is Severity.WARNING


# -- what looks like it ----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"eps": 1e-4}, {"fused": True}])
def test_silent_on_a_larger_eps_and_on_fused_kernels(options: dict[str, Any]) -> None:
    def loop() -> None:
        net = network(torch.float16)
        train(net, torch.optim.Adam(net.parameters(), lr=0.05, **options), torch.float16, 2)

    assert RULE not in rules(loop)


def test_silent_on_float32_weights_and_on_steps_that_move_them() -> None:
    def float32() -> None:
        net = network(torch.float32)
        train(net, torch.optim.AdamW(net.parameters(), lr=1e-4), torch.float32)

    def moves() -> None:
        net = network(torch.bfloat16, scale=0.01)
        train(net, torch.optim.AdamW(net.parameters(), lr=0.05), torch.bfloat16)

    assert rules(float32) == []
    assert RULE not in rules(moves)


@pytest.mark.parametrize("by", ["scheduler", "hand"])
def test_silent_in_a_warm_up_and_on_a_rate_of_zero(by: str) -> None:
    def loop() -> None:
        net = network(torch.bfloat16, scale=0.01)
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.05)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0, step - 2) / 1e5)
        if by == "hand":
            del optimizer.param_groups[0]["initial_lr"]
        for x, y in batches(32):
            optimizer.zero_grad()
            nn.functional.mse_loss(net(x.bfloat16()), y.bfloat16()).backward()
            optimizer.step()
            schedule.step()

    assert RULE not in rules(loop)


def test_silent_on_an_optimizer_that_rounds_by_chance() -> None:
    class Rounds(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            for parameter in self.param_groups[0]["params"]:
                exact = parameter.float() - 1e-4 * parameter.grad.float()
                parameter.copy_((exact + exact * 2**-8 * (torch.rand_like(exact) - 0.5)).bfloat16())

    def loop() -> None:
        net = network(torch.bfloat16)
        train(net, Rounds(net.parameters(), lr=1e-4), torch.bfloat16)

    assert RULE not in rules(loop)


def test_silent_on_frozen_weights_with_float32_ones_beside_them() -> None:
    def loop() -> None:
        body, adapter = network(torch.bfloat16), nn.Linear(2, 2)
        body.requires_grad_(False)
        optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-4)
        for x, y in batches(16):
            optimizer.zero_grad()
            nn.functional.mse_loss(adapter(body(x.bfloat16()).float()), y).backward()
            optimizer.step()

    assert rules(loop) == []
