"""clip-before-unscale: found at the clip, silent where the limit holds for what the step uses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.utils import clip_grad_norm_

from loopkit import Confidence, Severity
from tests.amp import half, scaled
from tests.loops import batches, model
from tests.watched import find, line_of, rules

RULE = "clip-before-unscale"


def clips_scaled(net: Any, optimizer: Any, scaler: Any) -> None:
    clip_grad_norm_(net.parameters(), 0.5)
    scaler.step(optimizer)
    scaler.update()


def clips_too_early() -> None:
    scaled(clips_scaled)


SNAPSHOTS = {RULE: clips_too_early}


def test_found_at_the_clip_with_the_real_limit() -> None:
    (found,) = find(clips_too_early)
    assert (found.rule, found.severity, found.confidence) == (RULE, Severity.ERROR, Confidence.PROOF)
    assert found.place is not None
    assert found.place.line == line_of(clips_scaled, "clip_grad_norm_")
    assert found.evidence["scale"] == 1024.0
    assert found.evidence["real_limit"] == pytest.approx(0.5 / 1024)


def test_found_where_unscale_is_called_too_late_and_for_each_of_two_optimizers() -> None:
    def unscales_late(net: Any, optimizer: Any, scaler: Any) -> None:
        clip_grad_norm_(net.parameters(), 0.5)
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()

    def second_of_two() -> None:
        nets = model(), model()
        optimizers = [torch.optim.SGD(net.parameters(), lr=0.001) for net in nets]
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for x, y in batches():
            for i, (net, optimizer) in enumerate(zip(nets, optimizers, strict=True)):
                optimizer.zero_grad()
                scaler.scale(half(net, x, y)).backward()
                if i == 0:
                    scaler.unscale_(optimizer)
                clip_grad_norm_(net.parameters(), 0.01)
                scaler.step(optimizer)
            scaler.update()

    assert rules(lambda: scaled(unscales_late)) == [RULE]
    (found,) = find(second_of_two)
    assert (found.rule, found.subject) == (RULE, "SGD #2")


def test_a_clip_by_value_is_a_warning() -> None:
    def by_value(net: Any, optimizer: Any, scaler: Any) -> None:
        torch.nn.utils.clip_grad_value_(net.parameters(), 0.1)
        scaler.step(optimizer)
        scaler.update()

    (found,) = find(lambda: scaled(by_value))
    assert (found.rule, found.severity) == (RULE, Severity.WARNING)


# -- what looks like it ----------------------------------------------------------------------------------


def unscales_first(net: Any, optimizer: Any, scaler: Any) -> None:
    scaler.unscale_(optimizer)
    clip_grad_norm_(net.parameters(), 0.5)
    scaler.step(optimizer)
    scaler.update()


def unscales_by_hand(net: Any, optimizer: Any, scaler: Any) -> None:
    for parameter in net.parameters():
        parameter.grad.div_(scaler.get_scale())
    clip_grad_norm_(net.parameters(), 0.5)
    optimizer.step()


def never_reached(net: Any, optimizer: Any, scaler: Any) -> None:
    clip_grad_norm_(net.parameters(), 5e4)
    scaler.step(optimizer)
    scaler.update()


@pytest.mark.parametrize("step", [unscales_first, unscales_by_hand, never_reached])
def test_silent_where_nothing_scaled_is_cut(step: Any) -> None:
    assert RULE not in rules(lambda: scaled(step))


@pytest.mark.parametrize("options", [{"enabled": False}, {"init_scale": 1.0}])
def test_silent_where_the_scaler_is_off_or_scales_by_one(options: dict[str, Any]) -> None:
    assert RULE not in rules(lambda: scaled(clips_scaled, **options))


def test_silent_in_an_accumulation_window_that_unscales_at_its_end() -> None:
    def window() -> None:
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.001)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for i, (x, y) in enumerate(batches(8)):
            scaler.scale(half(net, x, y) / 2).backward()
            if i % 2:
                unscales_first(net, optimizer, scaler)
                optimizer.zero_grad()

    assert find(window) == []


def test_silent_on_accelerate_which_unscales_in_its_clip() -> None:
    def step(net: Any, optimizer: Any, scaler: Any) -> None:
        from accelerate import Accelerator
        from accelerate.optimizer import AcceleratedOptimizer

        Accelerator(cpu=True)
        wrapped = AcceleratedOptimizer(optimizer, device_placement=False, scaler=scaler)
        scaler.unscale_(wrapped.optimizer)
        clip_grad_norm_(net.parameters(), 0.5)
        wrapped.step()

    assert RULE not in rules(lambda: scaled(step))
