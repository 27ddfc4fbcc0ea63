"""backward-counted-twice: found where it is, silent on what looks like it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from loopkit import Confidence, Severity
from tests.loops import adamw, batches, loader, loss_of, model
from tests.watched import find, line_of, rules


def term_and_sum() -> None:
    net = model()
    optimizer = adamw(net)
    for x, y in loader():
        optimizer.zero_grad()
        out = net(x)
        penalty = out.square().mean()
        penalty.backward(retain_graph=True)
        loss = loss_of(out, y) + 0.1 * penalty
        loss.backward()
        optimizer.step()


SNAPSHOTS = {"backward-counted-twice": term_and_sum}


def looped(send: Callable[[Tensor, Tensor, torch.optim.Optimizer], None]) -> Callable[[], None]:
    """A loop whose backwards are made by `send`, from the output and the target."""

    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for x, y in loader():
            optimizer.zero_grad()
            send(net(x), y, optimizer)
            optimizer.step()

    return loop


def test_found_at_the_second_backward_with_the_first() -> None:
    (finding,) = find(term_and_sum)
    assert finding.rule == "backward-counted-twice"
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.FACT)
    assert finding.place is not None
    assert finding.place.line == line_of(term_and_sum, "loss.backward()")
    assert finding.places["first"].line == line_of(term_and_sum, "retain_graph")
    assert finding.step == 1
    assert "2 contributions" in finding.seen


def _same(out: Tensor, y: Tensor, optimizer: torch.optim.Optimizer) -> None:
    loss = loss_of(out, y)
    loss.backward(retain_graph=True)
    loss.backward()


def _scaled(out: Tensor, y: Tensor, optimizer: torch.optim.Optimizer) -> None:
    loss = loss_of(out, y)
    (loss / 4).backward(retain_graph=True)
    (2 * loss).backward()


@pytest.mark.parametrize("send", [_same, _scaled])
def test_found_in_the_very_loss_and_in_a_multiple_of_it(
    send: Callable[[Tensor, Tensor, torch.optim.Optimizer], None],
) -> None:
    assert rules(looped(send)) == ["backward-counted-twice"]


def test_found_with_a_scaler_whose_products_are_new_tensors() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
        for x, y in loader():
            optimizer.zero_grad()
            loss = loss_of(net(x), y)
            scaler.scale(loss).backward(retain_graph=True)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()

    assert "backward-counted-twice" in rules(loop)


# -- what looks like it ----------------------------------------------------------------------------------


def _two_of_one_forward(out: Tensor, y: Tensor, optimizer: torch.optim.Optimizer) -> None:
    loss_of(out, y).backward(retain_graph=True)
    out.square().mean().backward()


def _samples(out: Tensor, y: Tensor, optimizer: torch.optim.Optimizer) -> None:
    losses = (out - y).square().sum(1)
    for each in losses:
        each.backward(retain_graph=True)


def _double(out: Tensor, y: Tensor, optimizer: torch.optim.Optimizer) -> None:
    loss = loss_of(out, y)
    loss.backward(create_graph=True)
    loss.backward()


def _measured(out: Tensor, y: Tensor, optimizer: torch.optim.Optimizer) -> None:
    loss = loss_of(out, y)
    loss.backward(retain_graph=True)
    optimizer.zero_grad()
    loss.backward()


def _measured_by_hand(out: Tensor, y: Tensor, optimizer: torch.optim.Optimizer) -> None:
    loss = loss_of(out, y)
    loss.backward(retain_graph=True)
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = None
    loss.backward()


def _selected(out: Tensor, y: Tensor, optimizer: torch.optim.Optimizer) -> None:
    first, *others = optimizer.param_groups[0]["params"]
    loss = loss_of(out, y)
    loss.backward(inputs=[first], retain_graph=True)
    loss.backward(inputs=others)


def _weighted(out: Tensor, y: Tensor, optimizer: torch.optim.Optimizer) -> None:
    loss = loss_of(out, y)
    loss.backward(torch.tensor(0.3), retain_graph=True)
    loss.backward(torch.tensor(0.7))


def _subtracted(out: Tensor, y: Tensor, optimizer: torch.optim.Optimizer) -> None:
    a, b = loss_of(out, y), out.square().mean()
    a.backward(retain_graph=True)
    (b - a).backward()


def _negated(out: Tensor, y: Tensor, optimizer: torch.optim.Optimizer) -> None:
    a, b = loss_of(out, y), out.square().mean()
    a.backward(retain_graph=True)
    (b + -0.5 * a).backward()


@pytest.mark.filterwarnings("ignore:Using backward")
@pytest.mark.parametrize(
    "send",
    [
        _two_of_one_forward,
        _samples,
        _double,
        _measured,
        _measured_by_hand,
        _selected,
        _weighted,
        _subtracted,
        _negated,
    ],
)
def test_silent_on_what_is_meant(send: Callable[[Tensor, Tensor, torch.optim.Optimizer], None]) -> None:
    assert "backward-counted-twice" not in rules(looped(send))


def test_silent_on_windows_and_on_losses_that_only_look_alike() -> None:
    def loop() -> None:
        net = nn.Linear(4, 2)
        optimizer = adamw(net)
        for _ in range(6):
            for x, y in batches(4):
                (loss_of(net(x), y) / 4).backward()
            optimizer.step()
            optimizer.zero_grad()

    assert rules(loop) == []
