"""trainable-set-suspicious: found where it is, silent on what looks like it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loopkit import Confidence, Severity
from tests.loops import adamw, loader, loss_of, model
from tests.watched import find, line_of, rules


def train(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for x, y in loader():
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()


def flag_on_a_module() -> None:
    net = model()
    net[0].requires_grad = False  # type: ignore[assignment]
    optimizer = adamw(net)
    for x, y in loader():
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()


def misspelt_on_parameters() -> None:
    net = model()
    for parameter in net[0].parameters():
        set_by_hand(parameter, "require_grad", False)
    train(net, adamw(net))


def set_by_hand(parameter: Any, name: str, value: object) -> None:
    setattr(parameter, name, value)


SNAPSHOTS = {
    "trainable-set-suspicious": flag_on_a_module,
    "trainable-set-suspicious-misspelt": misspelt_on_parameters,
}


def test_found_on_a_module_in_the_first_update() -> None:
    (finding,) = find(flag_on_a_module)
    assert finding.rule == "trainable-set-suspicious"
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(flag_on_a_module, "backward()")
    assert finding.subject == "Sequential.0"
    assert "Sequential.0.requires_grad = False was set on a module" in finding.seen
    assert "2 parameters of Sequential.0 that an optimizer owns are trained all the same" in finding.seen
    assert finding.step == 1


def test_found_misspelt_once_for_the_module() -> None:
    (finding,) = find(misspelt_on_parameters)
    assert finding.subject == "Sequential.0"
    assert finding.evidence["attribute"] == "require_grad"
    assert finding.evidence["parameters"] == 2


@pytest.mark.parametrize("name", ["requires_gradient", "required_grad", "require_grads", "requiresgrad"])
def test_found_under_other_spellings(name: str) -> None:
    def loop() -> None:
        net = model()
        for parameter in net.parameters():
            set_by_hand(parameter, name, False)
        train(net, adamw(net))

    assert rules(loop) == ["trainable-set-suspicious"]


def test_found_where_it_was_to_be_unfrozen() -> None:
    def loop() -> None:
        net = model()
        net[0].requires_grad_(False)
        net[0].requires_grad = True  # type: ignore[assignment]
        train(net, adamw(net))

    (finding,) = find(loop)
    assert "are frozen all the same" in finding.seen


def test_silent_where_the_flag_and_the_parameters_agree() -> None:
    def loop() -> None:
        net = model()
        net[0].requires_grad = False  # type: ignore[assignment]
        net[0].requires_grad_(False)
        for parameter in net.parameters():
            set_by_hand(parameter, "require_grad", parameter.requires_grad)
        train(net, adamw(net))

    assert rules(loop) == []


class Features(nn.Module):
    """Keeps a setting of that name."""

    def __init__(self, requires_grad: bool) -> None:
        super().__init__()
        self.out = nn.Linear(4, 2)
        self.requires_grad = requires_grad

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(x)
        return out


def test_silent_on_a_setting_of_the_modules_own() -> None:
    def loop() -> None:
        net = Features(requires_grad=False)
        train(net, adamw(net))

    assert rules(loop) == []


def test_silent_on_what_no_optimizer_owns_and_on_other_attributes() -> None:
    def loop() -> None:
        net = model()
        net[0].requires_grad = False  # type: ignore[assignment]
        for parameter in net.parameters():
            set_by_hand(parameter, "no_weight_decay", False)
            set_by_hand(parameter, "grad_scale", False)
            set_by_hand(parameter, "requires_sync", False)
        train(net, torch.optim.Adam(net[2].parameters()))

    assert rules(loop) == ["params-not-in-optimizer"]
