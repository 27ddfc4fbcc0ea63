"""scaler-bypassed: scaling on one side only."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from loopkit import Confidence, Severity
from tests.amp import half, scaled
from tests.loops import batches, model
from tests.watched import find, line_of, rules

RULE = "scaler-bypassed"


def direct(net: Any, optimizer: Any, scaler: Any) -> None:
    optimizer.step()


def steps_by_itself() -> None:
    scaled(direct)


def divides_what_was_not_scaled() -> None:
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.001)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(torch.ones(()))
    for x, y in batches():
        optimizer.zero_grad()
        half(net, x, y).backward()
        scaler.step(optimizer)
        scaler.update()


SNAPSHOTS = {RULE: steps_by_itself, "scaler-bypassed-divided": divides_what_was_not_scaled}


def test_found_at_the_step_that_uses_scaled_gradients() -> None:
    (found,) = find(steps_by_itself)
    assert (found.rule, found.severity, found.confidence) == (RULE, Severity.ERROR, Confidence.PROOF)
    assert found.place is not None
    assert found.place.line == line_of(direct, "optimizer.step()")
    assert found.evidence["scale"] == 1024.0


def test_found_at_the_step_that_divides_what_was_not_scaled() -> None:
    (found,) = find(divides_what_was_not_scaled)
    assert (found.rule, found.severity) == (RULE, Severity.ERROR)
    assert found.place is not None
    assert found.place.line == line_of(divides_what_was_not_scaled, "scaler.step")
    assert "too small" in found.why


def test_found_in_the_second_of_two_optimizers_and_in_a_window() -> None:
    def second_of_two() -> None:
        nets = model(), model()
        optimizers = [torch.optim.SGD(net.parameters(), lr=0.001) for net in nets]
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for x, y in batches():
            for i, (net, optimizer) in enumerate(zip(nets, optimizers, strict=True)):
                optimizer.zero_grad()
                scaler.scale(half(net, x, y)).backward()
                scaler.step(optimizer) if i == 0 else optimizer.step()
            scaler.update()

    def window() -> None:
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.001)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for i, (x, y) in enumerate(batches(8)):
            scaler.scale(half(net, x, y) / 2).backward()
            if i % 2:
                optimizer.step()
                optimizer.zero_grad()

    (found,) = find(second_of_two)
    assert (found.rule, found.subject) == (RULE, "SGD #2")
    assert rules(window) == [RULE]


# -- what looks like it ----------------------------------------------------------------------------------


def textbook(net: Any, optimizer: Any, scaler: Any) -> None:
    scaler.step(optimizer)
    scaler.update()


def unscales_and_steps(net: Any, optimizer: Any, scaler: Any) -> None:
    scaler.unscale_(optimizer)
    if all(parameter.grad.isfinite().all() for parameter in net.parameters()):
        optimizer.step()
    scaler.update()


def unscales_by_hand(net: Any, optimizer: Any, scaler: Any) -> None:
    for parameter in net.parameters():
        parameter.grad.div_(scaler.get_scale())
    optimizer.step()


@pytest.mark.parametrize("step", [textbook, unscales_and_steps, unscales_by_hand])
def test_silent_where_something_divides(step: Any) -> None:
    assert rules(lambda: scaled(step)) == []


@pytest.mark.parametrize("options", [{"enabled": False}, {"init_scale": 1.0}])
def test_silent_where_the_scaler_is_off_or_scales_by_one(options: dict[str, Any]) -> None:
    assert RULE not in rules(lambda: scaled(direct, **options))


def test_silent_on_scalers_of_their_own_class() -> None:
    class Own(torch.amp.GradScaler):
        def scale(self, outputs: Any) -> Any:
            return super().scale(outputs) if self._scale is None else outputs * self.get_scale()

        def step(self, optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> Any:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad.data.div_(self.get_scale())
            return optimizer.step()

    def loop() -> None:
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.001)
        scaler = Own("cpu", init_scale=1024.0)
        for x, y in batches():
            optimizer.zero_grad()
            scaler.scale(half(net, x, y)).backward()
            scaler.step(optimizer)

    assert RULE not in rules(loop)


@pytest.mark.parametrize("how", ["list", "sum", "by hand"])
def test_silent_on_losses_that_are_scaled_in_other_ways(how: str) -> None:
    def loop() -> None:
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.001)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        scaler.scale(torch.ones(()))
        for x, y in batches():
            optimizer.zero_grad()
            one, two = half(net, x, y), half(net, y.repeat(1, 2), x[:, :2])
            if how == "list":
                torch.autograd.backward(scaler.scale([one, two]))
            elif how == "sum":
                (scaler.scale(one) / 4 + scaler.scale(two) / 4).backward()
            else:
                ((one + two) * scaler.get_scale()).backward()
            scaler.step(optimizer)
            scaler.update()

    assert RULE not in rules(loop)


def test_silent_where_only_one_of_two_losses_is_scaled_and_each_steps_its_way() -> None:
    def loop() -> None:
        nets = model(), model()
        first, second = [torch.optim.SGD(net.parameters(), lr=0.001) for net in nets]
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for x, y in batches():
            first.zero_grad()
            scaler.scale(half(nets[0], x, y)).backward()
            scaler.step(first)
            scaler.update()
            second.zero_grad()
            half(nets[1], x, y, torch.bfloat16).backward()
            second.step()

    assert rules(loop) == []
