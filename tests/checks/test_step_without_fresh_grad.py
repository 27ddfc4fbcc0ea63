"""step-without-fresh-grad: found where it is, silent on what looks like it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from tests.loops import adamw, batches, loader, loss_of, model
from tests.watched import find, line_of, rules


def steps_before_backward() -> None:
    net = model()
    optimizer = adamw(net)
    for x, y in loader():
        optimizer.zero_grad()
        loss = loss_of(net(x), y)
        optimizer.step()
        loss.backward()


def test_found_at_the_step_by_the_second_update() -> None:
    (finding,) = find(steps_before_backward)
    assert finding.rule == "step-without-fresh-grad"
    assert finding.place is not None
    assert finding.place.line == line_of(steps_before_backward, "optimizer.step()")
    assert finding.step == 2
    assert "no gradient on any of its 4 parameters" in finding.seen


def steps_twice() -> None:
    net = model()
    optimizer = adamw(net)
    for x, y in loader():
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()  # first
        optimizer.step()  # second


SNAPSHOTS = {"step-without-fresh-grad": steps_before_backward, "step-without-fresh-grad-reused": steps_twice}


def test_found_with_both_ends_when_the_same_gradient_is_applied_twice() -> None:
    (finding,) = find(steps_twice)
    assert finding.rule == "step-without-fresh-grad"
    assert finding.place is not None
    assert finding.place.line == line_of(steps_twice, "# second")
    assert finding.places["step that had used them"].line == line_of(steps_twice, "# first")
    assert "had already used" in finding.seen


def test_found_for_a_generator_whose_loss_is_detached() -> None:
    def loop() -> None:
        generator, critic = nn.Linear(3, 4), nn.Linear(4, 1)
        for_generator = torch.optim.Adam(generator.parameters())
        for_critic = torch.optim.SGD(critic.parameters(), lr=0.1)
        for _ in range(4):
            fake = generator(torch.randn(4, 3)).detach()
            for_critic.zero_grad()
            critic(fake).mean().backward()
            for_critic.step()
            for_generator.zero_grad()
            critic(fake).mean().neg().backward()
            for_generator.step()

    (finding,) = find(loop)
    assert (finding.rule, finding.subject) == ("step-without-fresh-grad", "Adam")


def test_silent_on_the_step_that_quiets_the_schedulers_warning() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)
        optimizer.zero_grad()
        optimizer.step()
        for _ in range(3):
            scheduler.step()
        for x, y in loader():
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()
            scheduler.step()

    assert rules(loop) == []


def test_silent_on_a_step_at_rate_zero() -> None:
    def loop() -> None:
        net = model()
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.0)
        net(torch.randn(2, 4))
        optimizer.step()
        optimizer.step()

    assert rules(loop) == []


def test_silent_on_an_optimizer_of_frozen_parameters() -> None:
    def loop() -> None:
        backbone, head = nn.Linear(4, 4), nn.Linear(4, 2)
        backbone.requires_grad_(False)
        optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in (backbone, head)]
        for x, y in loader():
            loss_of(head(backbone(x)), y).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()

    assert rules(loop) == []


def test_silent_on_one_optimizer_a_task_all_stepped_each_time() -> None:
    def loop() -> None:
        trunk, heads = nn.Linear(4, 4), [nn.Linear(4, 2), nn.Linear(4, 2)]
        optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in (trunk, *heads)]
        for i, (x, y) in enumerate(batches(6)):
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss_of(heads[i % 2](trunk(x)), y).backward()
            for optimizer in optimizers:
                optimizer.step()

    assert rules(loop) == []


def test_silent_on_gradients_written_by_hand() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for x, y in loader():
            grads = torch.autograd.grad(loss_of(net(x), y), list(net.parameters()))
            for parameter, grad in zip(net.parameters(), grads, strict=True):
                parameter.grad = grad
            optimizer.step()

    assert rules(loop) == []


def test_silent_on_lbfgs_and_other_closures() -> None:
    def loop() -> None:
        net = model()
        for optimizer in (torch.optim.LBFGS(net.parameters(), max_iter=3), torch.optim.SGD(net.parameters(), lr=0.1)):
            for x, y in loader():

                def closure() -> torch.Tensor:
                    optimizer.zero_grad()
                    loss = loss_of(net(x), y)
                    loss.backward()
                    return loss

                optimizer.step(closure)

    assert rules(loop) == []


def test_silent_on_an_optimizer_that_steps_inside_backward() -> None:
    def loop() -> None:
        net = model()
        optimizers = {parameter: torch.optim.SGD([parameter], lr=0.1) for parameter in net.parameters()}

        def update(parameter: torch.Tensor) -> None:
            optimizers[parameter].step()  # type: ignore[index]
            optimizers[parameter].zero_grad()  # type: ignore[index]

        for parameter in net.parameters():
            parameter.register_post_accumulate_grad_hook(update)
        for x, y in loader():
            loss_of(net(x), y).backward()

    assert rules(loop) == []


class Evolution(torch.optim.Optimizer):
    """Needs no gradient."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(parameters, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.add_(torch.randn_like(parameter), alpha=group["lr"])


def test_silent_on_a_users_optimizer_that_needs_no_gradient() -> None:
    def loop() -> None:
        net = model()
        optimizer = Evolution(net.parameters())
        for x, _ in loader():
            net(x)
            optimizer.step()

    assert rules(loop) == []


class Lookahead(torch.optim.Optimizer):
    """Steps another optimizer inside its own step."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner = inner
        super().__init__([p for group in inner.param_groups for p in group["params"]], {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.inner.step()


def test_silent_on_an_optimizer_around_an_optimizer() -> None:
    def loop() -> None:
        net = model()
        optimizer = Lookahead(adamw(net))
        for x, y in loader():
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()

    assert rules(loop) == []
