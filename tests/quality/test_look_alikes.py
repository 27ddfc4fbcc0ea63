"""Correct loops that look like one of the bugs: each was once accused, or would be by a naive rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.loops import adamw, batches, loader, loss_of, model
from tests.watched import rules

LOOPS: list[Callable[[], None]] = []


def correct(loop: Callable[[], None]) -> Callable[[], None]:
    LOOPS.append(loop)
    return loop


@correct
def fp32_masters_written_through_data() -> None:
    net = model().to(torch.bfloat16)
    masters = [nn.Parameter(p.detach().float()) for p in net.parameters()]
    optimizer = torch.optim.AdamW(masters)
    for master in masters:
        master.grad = torch.zeros_like(master)
    for x, y in batches(20):
        net.zero_grad()
        loss_of(net(x.bfloat16()), y.bfloat16()).backward()
        for master, parameter in zip(masters, net.parameters(), strict=True):
            assert master.grad is not None
            assert parameter.grad is not None
            master.grad.data.copy_(parameter.grad.data)
        optimizer.step()
        for master, parameter in zip(masters, net.parameters(), strict=True):
            parameter.data.copy_(master.data)


@correct
def two_players_clear_through_data() -> None:
    generator, critic = nn.Linear(3, 4), nn.Linear(4, 1)
    for_generator, for_critic = torch.optim.Adam(generator.parameters()), torch.optim.Adam(critic.parameters())

    def clear(net: nn.Module) -> None:
        for parameter in net.parameters():
            if parameter.grad is not None:
                parameter.grad.data.zero_()

    for x, _ in batches(40):
        clear(critic)
        fake = generator(torch.randn(4, 3))
        (critic(fake.detach()).mean() - critic(x).mean()).backward()
        for_critic.step()
        clear(generator)
        critic(fake).mean().neg().backward()
        for_generator.step()


@correct
def gradients_carried_over_through_data() -> None:
    net = model()
    optimizer = adamw(net)
    for x, y in batches(20):
        for parameter in net.parameters():
            if parameter.grad is not None:
                parameter.grad.data.mul_(0.9)
        loss_of(net(x), y).backward()
        optimizer.step()


@correct
def gradients_by_hand_then_clipped() -> None:
    net = model()
    optimizer = adamw(net)
    for x, y in batches(10):
        optimizer.zero_grad()
        grads = torch.autograd.grad(loss_of(net(x), y), list(net.parameters()))
        for parameter, grad in zip(net.parameters(), grads, strict=True):
            parameter.grad = grad
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()


@correct
def gradients_copied_into_zeros() -> None:
    net = model()
    optimizer = adamw(net)
    for x, y in batches(10):
        grads = torch.autograd.grad(loss_of(net(x), y), list(net.parameters()))
        optimizer.zero_grad(set_to_none=False)
        for parameter, grad in zip(net.parameters(), grads, strict=True):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.copy_(grad)
        optimizer.step()


@correct
def sam_through_data_without_a_loader() -> None:
    net = model()
    optimizer = adamw(net)
    for x, y in batches(20):
        before = [parameter.detach().clone() for parameter in net.parameters()]
        for climb in (True, False):
            optimizer.zero_grad()
            loss_of(net(x.clone()), y).backward()
            for parameter, kept in zip(net.parameters(), before, strict=True):
                assert parameter.grad is not None
                parameter.data.copy_(kept + 0.05 * parameter.grad if climb else kept)
        optimizer.step()


@correct
def attack_whose_last_gradient_trains() -> None:
    net = model()
    optimizer = adamw(net)
    for x, y in batches(20):
        delta = torch.zeros_like(x, requires_grad=True)
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(net(x + delta), y).backward()
            assert delta.grad is not None
            with torch.no_grad():
                delta += 0.1 * delta.grad.sign()
            delta.grad = None
        optimizer.step()


@correct
def two_bad_batches_at_the_beginning() -> None:
    net = model()
    optimizer = adamw(net)
    for i, (x, y) in enumerate(batches(60)):
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        if i in (0, 2):
            continue
        optimizer.step()


@correct
def delayed_actor_with_a_scheduler_of_its_own() -> None:
    actor, critic = nn.Linear(4, 2), nn.Linear(6, 1)
    for_actor, for_critic = torch.optim.Adam(actor.parameters()), torch.optim.Adam(critic.parameters())
    schedule = torch.optim.lr_scheduler.StepLR(for_actor, 10)
    for i, (x, y) in enumerate(batches(12)):
        for_critic.zero_grad()
        critic(torch.cat([x, y], 1)).square().mean().backward()
        for_critic.step()
        if i % 2 == 1:
            for_actor.zero_grad()
            critic(torch.cat([x, actor(x)], 1)).mean().neg().backward()
            for_actor.step()
        with suppress(UserWarning):
            schedule.step()


@correct
def resumed_at_the_second_epoch_by_the_same_line() -> None:
    net = model()
    optimizer = adamw(net)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    for epoch in range(4):
        if epoch >= 1:
            for x, y in loader():
                optimizer.zero_grad()
                loss_of(net(x), y).backward()
                optimizer.step()
        schedule.step()


@correct
def a_schedule_drawn_before_training() -> None:
    net = model()
    optimizer = adamw(net)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    for _ in range(10):
        optimizer.step()
        schedule.step()


@correct
def one_task_in_five_at_a_time_with_an_evaluation_between() -> None:
    trunk, heads = nn.Linear(4, 4), [nn.Linear(4, 2) for _ in range(5)]
    optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in (trunk, *heads)]
    for i, (x, y) in enumerate(batches(30)):
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss_of(heads[i % 5](trunk(x)), y).backward()
        for optimizer in optimizers:
            optimizer.step()
            with torch.no_grad():
                trunk(x)


@correct
def a_loss_without_a_graph_now_and_then() -> None:
    net = model()
    optimizer = adamw(net)
    for i, (x, y) in enumerate(batches(30)):
        optimizer.zero_grad()
        loss = loss_of(net(x), y)
        if i % 4:
            loss.backward()
        optimizer.step()


class ErrorFeedback(torch.optim.SGD):
    """Keeps what it did not apply in `.grad`, for the next backward to add to."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    applied = parameter.grad.sign() * 0.01
                    parameter -= applied
                    parameter.grad -= applied


@correct
def an_optimizer_that_keeps_its_error_in_the_gradient() -> None:
    net = model()
    optimizer = ErrorFeedback(net.parameters(), lr=0.1)
    for x, y in batches(12):
        loss_of(net(x), y).backward()
        optimizer.step()


@correct
def hand_scaling_while_another_module_is_cleared() -> None:
    one, other = model(), model()
    optimizer = adamw(one)
    for x, y in batches(10):
        optimizer.zero_grad(set_to_none=False)
        loss_of(one(x), y).backward()
        for parameter in one.parameters():
            assert parameter.grad is not None
            parameter.grad.mul_(0.5)
        other.zero_grad()
        optimizer.step()


@correct
def maml_with_a_functional_inner_loop() -> None:
    net = nn.Linear(4, 2)
    optimizer = adamw(net)
    for x, y in batches(10):
        optimizer.zero_grad()
        weight = net.weight
        for _ in range(2):
            (grad,) = torch.autograd.grad(loss_of(x @ weight.T, y), weight, create_graph=True)
            weight = weight - 0.1 * grad
        loss_of(x @ weight.T + net.bias, y).backward()
        optimizer.step()


@correct
def word_language_model_style_update() -> None:
    net = model()
    for x, y in batches(10):
        net.zero_grad()
        loss_of(net(x), y).backward()
        for parameter in net.parameters():
            assert parameter.grad is not None
            parameter.data.add_(parameter.grad, alpha=-0.1)


@correct
def nanogpt_style_loop() -> None:
    net = model()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, fused=True)

    def stream() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from batches(8)

    data = stream()
    x, y = next(data)
    for step in range(10):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 / (step + 1)
        for _ in range(3):
            loss = loss_of(net(x), y) / 3
            x, y = next(data)
            loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


@correct
def a_trunk_that_collects_the_losses_of_two_heads() -> None:
    trunk, one, two = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 2)
    parts = [torch.optim.SGD(each.parameters(), 0.01) for each in (trunk, one, two)]
    for x, y in batches(12):
        for optimizer in parts:
            optimizer.zero_grad()
        loss_of(one(trunk(x)), y).backward()
        parts[1].step()
        loss_of(two(trunk(x)), -y).backward()
        parts[0].step()
        parts[2].step()


@correct
def a_layer_that_steps_at_every_second_loss() -> None:
    slow, fast = nn.Linear(4, 4), nn.Linear(4, 2)
    slowly, quickly = torch.optim.SGD(slow.parameters(), 0.01), torch.optim.SGD(fast.parameters(), 0.01)
    for x, y in batches(12):
        slowly.zero_grad()
        quickly.zero_grad()
        loss_of(fast(slow(x)), y).backward()
        quickly.step()
        quickly.zero_grad()
        loss_of(fast(slow(x * 0.5)), y).backward()
        slowly.step()
        quickly.step()


@correct
def two_players_clear_through_grad_data() -> None:
    generator, critic = nn.Linear(3, 4), nn.Linear(4, 1)
    for_generator, for_critic = torch.optim.Adam(generator.parameters()), torch.optim.Adam(critic.parameters())
    for _ in range(20):
        for parameter in critic.parameters():
            if parameter.grad is not None:
                parameter.grad.data.zero_()
        fake = generator(torch.randn(4, 3))
        critic(fake).square().mean().backward()
        for_critic.step()
        for parameter in generator.parameters():
            if parameter.grad is not None:
                parameter.grad.data.zero_()
        critic(generator(torch.randn(4, 3))).mean().backward()
        for_generator.step()


@correct
def windows_divided_below_the_mean() -> None:
    net = model()
    optimizer = adamw(net)
    for i, (x, y) in enumerate(loader(samples=64)):
        ((net(x) - y).square() / 4).mean().backward()
        if i % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()


@correct
def windows_divided_by_the_gradient_of_the_loss() -> None:
    net = model()
    optimizer = adamw(net)
    for i, (x, y) in enumerate(loader(samples=64)):
        loss_of(net(x), y).backward(gradient=torch.tensor(0.25))
        if i % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()


@correct
def layers_in_a_list_that_get_an_optimizer_later() -> None:
    class Grows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 2)
            self.later = [nn.Linear(2, 2)]

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.later[0](self.first(x))
            return out

    net = Grows()
    optimizer = adamw(net)
    for i, (x, y) in enumerate(batches(40)):
        if i == 10:
            optimizer.add_param_group({"params": net.later[0].parameters()})
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()


@correct
def windows_divided_through_data() -> None:
    net = model()
    optimizer = adamw(net)
    for i, (x, y) in enumerate(loader(samples=96)):
        loss_of(net(x), y).backward()
        if i % 4 == 3:
            for parameter in net.parameters():
                assert parameter.grad is not None
                parameter.grad.data /= 4
            optimizer.step()
            optimizer.zero_grad()


@correct
def windows_divided_in_hooks() -> None:
    net = model()
    optimizer = adamw(net)
    for parameter in net.parameters():
        parameter.register_hook(lambda grad: grad / 4)
    for i, (x, y) in enumerate(loader(samples=96)):
        loss_of(net(x), y).backward()
        if i % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.filterwarnings("ignore:Detected call of")
@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_silent(loop: Callable[[], None]) -> None:
    assert rules(loop) == []
