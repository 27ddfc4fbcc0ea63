"""stale-graph-backward: found where it is, silent on what looks like it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from loopkit import Confidence, Severity
from tests.loops import adamw, batches, loader, loss_of, model
from tests.watched import find, line_of, rules


def fused(*nets: nn.Module) -> torch.optim.Optimizer:
    """An optimizer whose steps do not show in version counters."""
    return torch.optim.AdamW([each for net in nets for each in net.parameters()], lr=0.01, fused=True)


def second_loss_after_the_step() -> None:
    net = model()
    optimizer = fused(net)
    for x, y in loader():
        out = net(x)
        first, second = loss_of(out, y), out.square().mean()
        optimizer.zero_grad()
        first.backward(retain_graph=True)
        optimizer.step()
        optimizer.zero_grad()
        second.backward()
        optimizer.step()


def renormalised(net: nn.Sequential) -> None:
    for layer in net:
        if isinstance(layer, nn.Linear):
            layer.weight.data.mul_(0.9)


def rescales_before_backward() -> None:
    net = model()
    optimizer = adamw(net)
    for x, y in loader():
        loss = loss_of(net(x), y)
        renormalised(net)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


SNAPSHOTS = {
    "stale-graph-backward": second_loss_after_the_step,
    "stale-graph-backward-data": rescales_before_backward,
}


def test_a_second_loss_is_found_at_its_backward_with_the_step() -> None:
    (finding,) = find(second_loss_after_the_step)
    assert finding.rule == "stale-graph-backward"
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(second_loss_after_the_step, "second.backward()")
    assert finding.places["step"].line in range(finding.place.line - 5, finding.place.line)
    assert finding.step == 2
    assert "4 of 4 parameters of AdamW" in finding.seen


def test_weights_changed_through_data_are_found_at_the_backward() -> None:
    (finding,) = find(rescales_before_backward)
    assert (finding.rule, finding.step) == ("stale-graph-backward", 1)
    assert finding.place is not None
    assert finding.place.line == line_of(rescales_before_backward, "loss.backward()")
    assert "2 of 4 parameters of AdamW were changed through `.data`" in finding.seen


def test_found_where_pytorch_raises() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        x, y = next(batches())
        out = net(x)
        loss_of(out, y).backward(retain_graph=True)
        optimizer.step()
        optimizer.zero_grad()
        with pytest.raises(RuntimeError, match="inplace operation"):
            out.square().mean().backward()

    assert rules(loop) == ["stale-graph-backward"]


def test_found_in_a_hidden_state_that_is_carried_over_a_step() -> None:
    def loop() -> None:
        cell = nn.RNNCell(4, 2)
        optimizer = fused(cell)
        hidden = torch.zeros(4, 2)
        for x, y in loader():
            hidden = cell(x, hidden)
            optimizer.zero_grad()
            loss_of(hidden, y).backward(retain_graph=True)
            optimizer.step()

    (finding,) = [each for each in find(loop) if each.rule == "stale-graph-backward"]
    assert "4 of 4 parameters" in finding.seen


def test_found_when_the_player_was_judged_before_its_step() -> None:
    def loop() -> None:
        generator, critic = nn.Linear(3, 4), model()
        for_generator, for_critic = fused(generator), fused(critic)
        for x, _ in loader():
            fake = generator(torch.randn(4, 3))
            for_critic.zero_grad()
            d_loss = critic(fake.detach()).mean() - critic(x).mean()
            g_loss = -critic(fake).mean()
            d_loss.backward()
            for_critic.step()
            for_generator.zero_grad()
            g_loss.backward()
            for_generator.step()

    (finding,) = find(loop)
    assert finding.subject == "AdamW #2"


def test_found_in_features_that_are_made_once() -> None:
    def loop() -> None:
        body, head = nn.Linear(4, 3), nn.Linear(3, 2)
        optimizer = fused(body, head)
        x, y = next(batches())
        features = body(x)
        for _ in range(4):
            optimizer.zero_grad()
            loss_of(head(features), y).backward(retain_graph=True)
            optimizer.step()

    (finding,) = find(loop)
    assert "2 of 4 parameters" in finding.seen


def test_found_when_data_is_replaced_and_when_only_one_row_is_changed() -> None:
    def loop(change: Callable[[torch.Tensor], None]) -> Callable[[], None]:
        def run() -> None:
            net = model()
            optimizer = adamw(net)
            for x, y in batches():
                loss = loss_of(net(x), y)
                change(next(net.parameters()))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

        return run

    def replace(weight: torch.Tensor) -> None:
        weight.data = weight.data * 0.5

    def row(weight: torch.Tensor) -> None:
        weight.data[5] *= 0.5

    assert rules(loop(replace)) == ["stale-graph-backward"]
    assert rules(loop(row)) == ["stale-graph-backward"]


# -- what looks like it ----------------------------------------------------------------------------------


def test_silent_on_two_backwards_before_the_step() -> None:
    def loop() -> None:
        net = model()
        optimizer = fused(net)
        for x, y in loader():
            out = net(x)
            optimizer.zero_grad()
            loss_of(out, y).backward(retain_graph=True)
            out.square().mean().backward()
            optimizer.step()

    assert rules(loop) == []


def test_silent_on_parameters_that_the_step_did_not_move() -> None:
    def loop() -> None:
        body, one, other = nn.Linear(4, 3).requires_grad_(False), nn.Linear(3, 2), nn.Linear(3, 2)
        optimizer = fused(one, other)
        for x, y in loader():
            features = body(x)
            first, second = loss_of(one(features), y), loss_of(other(features), y)
            optimizer.zero_grad()
            first.backward()
            optimizer.step()
            optimizer.zero_grad()
            second.backward()
            optimizer.step()

    assert rules(loop) == []


def test_silent_on_a_rate_of_zero_and_on_a_step_that_was_skipped() -> None:
    def rate() -> None:
        net = model()
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.0, fused=True)
        for x, y in loader():
            out = net(x)
            for loss in (loss_of(out, y), out.square().mean()):
                optimizer.zero_grad()
                loss.backward(retain_graph=True)
                optimizer.step()

    def skipped() -> None:
        net = model()
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
        for x, y in loader():
            out = net(x)
            optimizer.zero_grad()
            scaler.scale(loss_of(out, y) * float("inf")).backward(retain_graph=True)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            (loss_of(out, y) + next(net.parameters()).square().sum()).backward()
            optimizer.step()

    assert "stale-graph-backward" not in rules(rate)
    assert "stale-graph-backward" not in rules(skipped)


def test_silent_on_a_loop_that_is_one_forward_ahead() -> None:
    def loop() -> None:
        net = model()
        optimizer = fused(net)
        ahead = None
        for x, y in loader(samples=40):
            coming = loss_of(net(x), y)
            if ahead is not None:
                optimizer.zero_grad()
                ahead.backward()
                optimizer.step()
            ahead = coming

    assert rules(loop) == []


def test_silent_on_a_gradient_penalty_and_on_checkpointing() -> None:
    def penalty() -> None:
        net = model()
        optimizer = fused(net)
        for x, y in loader():
            x.requires_grad_()
            out = net(x)
            (grad,) = torch.autograd.grad(out.sum(), x, create_graph=True)
            optimizer.zero_grad()
            (loss_of(out, y) + grad.square().mean()).backward()
            optimizer.step()

    def checkpoints() -> None:
        net = model()
        optimizer = fused(net)
        for x, y in loader():
            hidden = torch.utils.checkpoint.checkpoint(net[0], x, use_reentrant=False)
            optimizer.zero_grad()
            loss_of(net[2](hidden), y).backward()
            optimizer.step()

    assert rules(penalty) == []
    assert rules(checkpoints) == []


class Renormalising(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.weight.data = nn.functional.normalize(self.weight.data)
        return super().forward(x)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Renormalising(4, 2),
        lambda: torch.nn.utils.parametrizations.spectral_norm(nn.Linear(4, 2)),
        lambda: torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 2)),
    ],
)
@pytest.mark.parametrize("forwards", [1, 2])
def test_silent_on_modules_that_change_their_weights_in_forward(make: Callable[[], nn.Module], forwards: int) -> None:
    def loop() -> None:
        net = make()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for x, y in loader():
            loss = torch.stack([loss_of(net(x), y) for _ in range(forwards)]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    assert rules(loop) == []


def test_silent_on_binaryconnect_clamps_and_averaged_weights() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        average = copy.deepcopy(net)
        for x, y in loader():
            kept = [each.data.clone() for each in net.parameters()]
            for each in net.parameters():
                each.data.sign_()
            loss = loss_of(net(x), y)
            with torch.no_grad():
                average(x)
            optimizer.zero_grad()
            loss.backward()
            for each, value in zip(net.parameters(), kept, strict=True):
                each.data.copy_(value)
            optimizer.step()
            for each in net.parameters():
                each.data.clamp_(-1, 1)
            own = copy.deepcopy(net.state_dict())
            for each, mean in zip(net.parameters(), average.parameters(), strict=True):
                mean.data.lerp_(each.data, 0.1)
                each.data.copy_(mean.data)
            with torch.no_grad():
                net(x)
            net.load_state_dict(own)

    assert rules(loop) == []


def test_silent_on_weights_in_shared_memory_and_on_nan() -> None:
    def shared() -> None:
        net = model()
        net.share_memory()
        optimizer = adamw(net)
        for x, y in loader():
            loss = loss_of(net(x), y)
            renormalised(net)  # as another process would
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def nan() -> None:
        net = model()
        optimizer = adamw(net)
        for x, y in loader():
            optimizer.zero_grad()
            loss_of(net(x) * float("nan"), y).backward()
            optimizer.step()

    assert "stale-graph-backward" not in rules(shared)
    assert "stale-graph-backward" not in rules(nan)
