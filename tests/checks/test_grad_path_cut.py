"""grad-path-cut: found where it is, silent on what looks like it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loopkit import Confidence, Severity
from tests.loops import adamw, batches, loader, loss_of, model
from tests.watched import find, line_of, rules


def rebuilt_from_its_value() -> None:
    net = model()
    optimizer = adamw(net)
    for x, y in loader():
        optimizer.zero_grad()
        loss = torch.tensor(loss_of(net(x), y).item(), requires_grad=True)
        loss.backward()
        optimizer.step()


def through_a_rounding() -> None:
    net = model()
    optimizer = adamw(net)
    for x, y in loader():
        optimizer.zero_grad()
        loss = loss_of(net(x).round(), y)
        loss.backward()
        optimizer.step()


def by_way_of_numpy() -> None:
    net = model()
    optimizer = adamw(net)
    for x, y in loader():
        optimizer.zero_grad()
        prediction = torch.tensor(net(x).detach().numpy(), requires_grad=True)
        loss_of(prediction, y).backward()
        optimizer.step()


SNAPSHOTS = {
    "grad-path-cut": rebuilt_from_its_value,
    "grad-path-cut-zero": through_a_rounding,
    "grad-path-cut-apart": by_way_of_numpy,
}


def test_found_at_the_backward_by_the_second_update() -> None:
    (finding,) = find(rebuilt_from_its_value)
    assert finding.rule == "grad-path-cut"
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(rebuilt_from_its_value, "backward()")
    assert finding.step == 2
    assert "a loss that has no graph" in finding.seen
    assert "4 parameters of AdamW" in finding.seen


def test_found_where_every_path_passes_a_derivative_of_0() -> None:
    (finding,) = find(through_a_rounding)
    assert finding.rule == "grad-path-cut"
    assert finding.place is not None
    assert finding.place.line == line_of(through_a_rounding, "backward()")
    assert "to the 4 parameters it reaches" in finding.seen
    assert "(round)" in finding.seen


def test_found_where_the_graph_ends_before_the_parameters() -> None:
    (finding,) = find(by_way_of_numpy)
    assert (finding.rule, finding.evidence["cut"]) == ("grad-path-cut", "apart")


def test_found_without_any_clear_and_in_long_runs_once() -> None:
    def loop() -> None:
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for x, y in batches(40):
            loss = loss_of(net(x), y).detach().requires_grad_()
            loss.backward()
            optimizer.step()

    assert rules(loop) == ["grad-path-cut"]


def test_found_for_each_micro_batch_of_a_window() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for i, (x, y) in enumerate(batches(12)):
            torch.tensor(loss_of(net(x), y).item() / 2, requires_grad=True).backward()
            if i % 2:
                optimizer.step()
                optimizer.zero_grad()

    assert rules(loop) == ["grad-path-cut"]


@pytest.mark.parametrize("name", ["floor", "sign", "ceil", "trunc"])
def test_found_for_other_operations_with_no_derivative(name: str) -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for x, y in loader():
            optimizer.zero_grad()
            loss_of(getattr(net(x), name)(), y).backward()
            optimizer.step()

    assert rules(loop) == ["grad-path-cut"]


def test_silent_on_a_straight_through_estimator() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for x, y in loader():
            optimizer.zero_grad()
            out = net(x)
            loss_of(out + (out.round() - out).detach(), y).backward()
            optimizer.step()

    assert rules(loop) == []


class _Quantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


def test_silent_behind_a_custom_function() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for x, y in loader():
            optimizer.zero_grad()
            quantize: Any = _Quantize.apply
            loss_of(quantize(net(x)).sign(), y).backward()
            optimizer.step()

    assert rules(loop) == []


def test_silent_where_one_term_of_the_loss_still_trains() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for x, y in loader():
            optimizer.zero_grad()
            out = net(x)
            (loss_of(out.round(), y) + loss_of(out, y)).backward()
            optimizer.step()

    assert rules(loop) == []


def test_silent_on_a_stand_in_for_the_loss_of_a_batch_now_and_then() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for i, (x, y) in enumerate(batches(16)):
            optimizer.zero_grad()
            loss = torch.zeros((), requires_grad=True) if i in (0, 5, 9) else loss_of(net(x), y)
            loss.backward()
            optimizer.step()

    assert rules(loop) == []


def test_silent_on_a_second_backward_beside_the_real_one() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for x, y in loader():
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            torch.zeros((), requires_grad=True).backward()
            optimizer.step()

    assert rules(loop) == []


def test_silent_on_a_probe_of_rounded_outputs_before_the_real_backward() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for x, y in loader():
            optimizer.zero_grad()
            loss_of(net(x).round(), y).backward()
            loss_of(net(x), y).backward()
            optimizer.step()

    assert rules(loop) == []


def test_silent_on_an_optimized_input_and_on_a_parameter_that_is_the_loss() -> None:
    def loop() -> None:
        net = model().requires_grad_(False)
        image = torch.randn(4, 4, requires_grad=True)
        optimizer = torch.optim.Adam([image])
        for _ in range(4):
            optimizer.zero_grad()
            net(image).square().sum().backward()
            optimizer.step()
        scalar = nn.Parameter(torch.ones(()))
        descent = torch.optim.SGD([scalar], lr=0.1)
        for _ in range(4):
            descent.zero_grad()
            scalar.backward()
            descent.step()

    assert rules(loop) == []


def test_silent_on_saliency_without_a_step_and_on_gradients_written_by_hand() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for x, _ in loader():
            given = x.clone().requires_grad_()
            net.requires_grad_(False)
            net(given).sum().backward()
            net.requires_grad_(True)
            for parameter in net.parameters():
                parameter.grad = torch.ones_like(parameter)
            optimizer.step()

    assert rules(loop) == []


def test_silent_on_a_score_function_estimator() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for x, _ in loader():
            optimizer.zero_grad()
            policy = torch.distributions.Categorical(logits=net(x))
            action = policy.sample()
            (-policy.log_prob(action) * action.float().round()).mean().backward()
            optimizer.step()

    assert rules(loop) == []


def test_the_other_players_loss_stays_with_step_without_fresh_grad() -> None:
    def loop() -> None:
        generator, critic = nn.Linear(4, 4), nn.Linear(4, 1)
        for_generator = torch.optim.Adam(generator.parameters())
        for_critic = torch.optim.Adam(critic.parameters())
        for x, _ in loader():
            for_critic.zero_grad()
            critic(x).mean().backward()
            for_critic.step()
            for_generator.zero_grad()
            critic(generator(x).detach()).mean().backward()
            for_generator.step()

    assert rules(loop) == ["step-without-fresh-grad"]
