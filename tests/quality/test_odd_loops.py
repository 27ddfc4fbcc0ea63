"""Loops of unusual make: none may fail because it is watched, be accused, or make loopkit itself fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import loopkit
from tests.loops import adamw, batches, loss_of, model

LOOPS: list[Callable[[], Any]] = []


def odd(loop: Callable[[], Any]) -> Callable[[], Any]:
    LOOPS.append(loop)
    return loop


def sgd(*parameters: Tensor) -> torch.optim.Optimizer:
    return torch.optim.SGD(list(parameters), lr=0.01)


@odd
def a_model_without_parameters() -> None:
    weight = torch.zeros(4, 2, requires_grad=True)
    optimizer = sgd(weight)
    for x, y in batches(4):
        optimizer.zero_grad()
        loss_of(nn.Identity()(x) @ weight, y).backward()
        optimizer.step()


@odd
def integer_buffers_and_parameters() -> None:
    net = model()
    net.register_parameter("steps", nn.Parameter(torch.zeros(1, dtype=torch.long), requires_grad=False))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for x, y in batches(4):
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()


@odd
def complex_parameters() -> None:
    weight = nn.Parameter(torch.randn(4, 2, dtype=torch.complex64))
    optimizer = torch.optim.Adam([weight], lr=0.01)
    for x, y in batches(4):
        optimizer.zero_grad()
        ((x.to(torch.complex64) @ weight).abs() - y).square().mean().backward()
        optimizer.step()


@odd
def sparse_gradients() -> None:
    embedding = nn.Embedding(10, 2, sparse=True)
    optimizer = torch.optim.SparseAdam(list(embedding.parameters()), lr=0.01)
    for _, y in batches(6):
        optimizer.zero_grad()
        loss_of(embedding(torch.randint(0, 10, (4,))), y).backward()
        optimizer.step()


class Signs(torch.optim.Optimizer):
    """An optimizer of the user's own."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.01})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad.sign(), alpha=group["lr"])


class Bare(torch.optim.Optimizer):
    """One that never calls `super().__init__`."""

    def __init__(self, parameters: Any) -> None:
        self.held = list(parameters)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        with torch.no_grad():
            for parameter in self.held:
                if parameter.grad is not None:
                    parameter.sub_(0.01 * parameter.grad)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for parameter in self.held:
            parameter.grad = None


@odd
def an_optimizer_of_the_users_own() -> None:
    net = model()
    optimizer = Signs(net.parameters())
    for x, y in batches(6):
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()


@odd
def an_optimizer_without_super_init() -> None:
    net = model()
    optimizer = Bare(net.parameters())
    for x, y in batches(6):
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()


@odd
def a_scheduler_of_the_users_own() -> None:
    class Halves:
        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            self.optimizer = optimizer

        def step(self) -> None:
            for group in self.optimizer.param_groups:
                group["lr"] *= 0.5

    class Waves(torch.optim.lr_scheduler.LRScheduler):
        def get_lr(self) -> list[float | Tensor]:
            return [base / (1 + self.last_epoch % 3) for base in self.base_lrs]

    net = model()
    optimizer = adamw(net)
    schedulers = Halves(optimizer), Waves(optimizer)
    for x, y in batches(6):
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()


@odd
def losses_that_are_tuples_and_floats() -> None:
    net = model()
    optimizer = adamw(net)
    for x, y in batches(4):
        optimizer.zero_grad()
        decay = torch.stack([p.square().sum() for p in net.parameters()]).sum()
        losses = loss_of(net(x), y), 0.01 * decay
        torch.autograd.backward(losses)
        assert float(losses[0].detach()) >= 0.0
        optimizer.step()


@odd
def functional_calls_and_vmap() -> None:
    net = model()
    optimizer = adamw(net)

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return loss_of(torch.func.functional_call(net, parameters, (x[None],)), y[None])

    for x, y in batches(4):
        optimizer.zero_grad()
        each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(dict(net.named_parameters()), x, y)
        for name, parameter in net.named_parameters():
            parameter.grad = each[name].mean(0).detach()
        optimizer.step()


@odd
def a_scripted_model() -> None:
    net: Any = torch.jit.script(model())
    optimizer = torch.optim.AdamW(net.parameters())
    for x, y in batches(4):
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()


@odd
def a_compiled_model() -> None:
    net = model()
    compiled = torch.compile(net, backend="eager")
    optimizer = adamw(net)
    for x, y in batches(4):
        optimizer.zero_grad()
        loss_of(compiled(x), y).backward()
        optimizer.step()


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_of_both_kinds(reentrant: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def loop() -> None:
        first, second = nn.Linear(4, 4), nn.Linear(4, 2)
        optimizer = sgd(*first.parameters(), *second.parameters())
        for x, y in batches(6):
            optimizer.zero_grad()
            loss_of(second(checkpoint(first, x.requires_grad_(), use_reentrant=reentrant)), y).backward()
            optimizer.step()

    _accused_of_nothing(loop, monkeypatch)


@odd
def an_optimizer_in_backward() -> None:
    net = model()
    optimizers = {parameter: sgd(parameter) for parameter in net.parameters()}

    def hook(parameter: Tensor) -> None:
        optimizers[parameter].step()  # type: ignore[index]
        optimizers[parameter].zero_grad()  # type: ignore[index]

    for parameter in net.parameters():
        parameter.register_post_accumulate_grad_hook(hook)
    for x, y in batches(6):
        loss_of(net(x), y).backward()


@odd
def lbfgs() -> None:
    net = model()
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=3)
    for x, y in batches(3):

        def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(net(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)


@odd
def sharpness_aware_by_hand() -> None:
    net = model()
    optimizer = adamw(net)
    for x, y in batches(6):
        loss_of(net(x), y).backward()
        moves = [0.05 * p.grad / (p.grad.norm() + 1e-12) for p in net.parameters() if p.grad is not None]
        with torch.no_grad():
            for parameter, move in zip(net.parameters(), moves, strict=True):
                parameter.add_(move)
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        with torch.no_grad():
            for parameter, move in zip(net.parameters(), moves, strict=True):
                parameter.sub_(move)
        optimizer.step()
        optimizer.zero_grad()


@odd
def a_gradient_penalty() -> None:
    critic = model()
    optimizer = adamw(critic)
    for x, _ in batches(6):
        x.requires_grad_()
        optimizer.zero_grad()
        score = critic(x).sum()
        (gradient,) = torch.autograd.grad(score, x, create_graph=True)
        (critic(x).mean() + (gradient.norm(dim=1) - 1).square().mean()).backward()
        optimizer.step()


@odd
def maml() -> None:
    net = nn.Linear(4, 2)
    optimizer = adamw(net)
    for _ in range(4):
        optimizer.zero_grad()
        for x, y in batches(3):
            inner = loss_of(net(x), y)
            gradients = torch.autograd.grad(inner, list(net.parameters()), create_graph=True)
            weight, bias = (p - 0.1 * g for p, g in zip(net.parameters(), gradients, strict=True))
            (loss_of(nn.functional.linear(x, weight, bias), y) / 3).backward()
        optimizer.step()


@odd
def gradients_cached_by_chunks() -> None:
    net = model()
    optimizer = adamw(net)
    for _ in range(4):
        optimizer.zero_grad()
        chunks = [x for x, _ in batches(3)]
        with torch.no_grad():
            outputs = [net(chunk) for chunk in chunks]
        leaves = [output.detach().requires_grad_() for output in outputs]
        torch.cat(leaves).square().mean().backward()
        for chunk, leaf in zip(chunks, leaves, strict=True):
            torch.autograd.backward(net(chunk), leaf.grad)
        optimizer.step()


@odd
def reinforce_without_a_loader() -> None:
    policy = model()
    optimizer = adamw(policy)
    for _ in range(6):
        terms = []
        state = torch.randn(4)
        for _ in range(5):
            choice = torch.distributions.Categorical(logits=policy(state))
            action = choice.sample()
            terms.append(-choice.log_prob(action) * float(action))
            state = torch.randn(4)
        optimizer.zero_grad()
        torch.stack(terms).sum().backward()
        optimizer.step()


@odd
def updates_by_hand() -> None:
    net = model()
    for x, y in batches(20):
        loss_of(net(x), y).backward()
        with torch.no_grad():
            for parameter in net.parameters():
                assert parameter.grad is not None
                parameter.data -= 0.01 * parameter.grad
                parameter.grad.zero_()


def _accused_of_nothing(loop: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPKIT_RAISE", "1")
    torch.manual_seed(0)
    with loopkit.watch(skip=["console"]) as run:
        loop()
    assert not run.failures
    assert [finding.seen for finding in run.findings] == []
    assert run.recorder.losses.error is None


@pytest.mark.filterwarnings("ignore:`torch.jit", "ignore:Using backward", "ignore:Converting a tensor")
@pytest.mark.parametrize("loop", LOOPS, ids=[loop.__name__ for loop in LOOPS])
def test_odd_loops_run_and_are_accused_of_nothing(loop: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    _accused_of_nothing(loop, monkeypatch)
