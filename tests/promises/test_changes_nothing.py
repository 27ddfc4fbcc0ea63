"""Promise 1: watched and bare runs end bit-identical, whatever the loop."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import loopkit
from tests.watched import Events


@dataclass(frozen=True)
class Loop:
    """A generated loop."""

    optimizer: str
    scheduler: str
    window: int
    batches: int
    clear: str
    clear_at: str
    clip: bool
    dropout: bool
    scaler: bool
    closure: bool
    evaluate: bool
    second: bool


loops = st.builds(
    Loop,
    optimizer=st.sampled_from(["sgd", "momentum", "adamw", "fused", "foreach", "adagrad"]),
    scheduler=st.sampled_from(["none", "lambda", "sequential", "plateau", "restarts", "chained"]),
    window=st.integers(1, 4),
    batches=st.integers(1, 9),
    clear=st.sampled_from(["none", "zero", "module", "hand", "never"]),
    clear_at=st.sampled_from(["first", "last", "between"]),
    clip=st.booleans(),
    dropout=st.booleans(),
    scaler=st.booleans(),
    closure=st.booleans(),
    evaluate=st.booleans(),
    second=st.booleans(),
)


def _optimizer(kind: str, net: nn.Module) -> torch.optim.Optimizer:
    parameters = list(net.parameters())
    if kind == "sgd":
        return torch.optim.SGD(parameters, lr=0.1)
    if kind == "momentum":
        return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True)
    if kind == "adagrad":
        return torch.optim.Adagrad(parameters, lr=0.1)
    return torch.optim.AdamW(parameters, lr=0.1, fused=kind == "fused" or None, foreach=kind == "foreach" or None)


def _scheduler(kind: str, optimizer: torch.optim.Optimizer) -> Any:
    schedulers = torch.optim.lr_scheduler
    if kind == "lambda":
        return schedulers.LambdaLR(optimizer, lambda step: 0.9**step)
    if kind == "sequential":
        parts: list[Any] = [schedulers.LinearLR(optimizer), schedulers.ExponentialLR(optimizer, 0.9)]
        return schedulers.SequentialLR(optimizer, parts, milestones=[2])
    if kind == "plateau":
        return schedulers.ReduceLROnPlateau(optimizer, patience=0)
    if kind == "restarts":
        return schedulers.CosineAnnealingWarmRestarts(optimizer, 3)
    if kind == "chained":
        return schedulers.ChainedScheduler([schedulers.LinearLR(optimizer), schedulers.StepLR(optimizer, 2)])
    return None


def _clear(kind: str, net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    if kind == "module":
        net.zero_grad()
    elif kind == "hand":
        for parameter in net.parameters():
            parameter.grad = None
    elif kind != "never":
        optimizer.zero_grad(set_to_none=kind == "none")


def train(loop: Loop) -> list[Any]:
    """Run it from a fixed seed; everything that may not differ."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.3 if loop.dropout else 0.0), nn.Linear(4, 1))
    other = nn.Linear(1, 1)
    optimizers = [_optimizer(loop.optimizer, net)] + [torch.optim.SGD(other.parameters(), lr=0.1)] * loop.second
    scheduler = _scheduler(loop.scheduler, optimizers[0])
    scaler = torch.amp.GradScaler("cpu", enabled=loop.scaler, init_scale=2.0**10)
    data = torch.utils.data.TensorDataset(torch.randn(4 * loop.batches, 3))
    losses: list[Any] = []
    for i, (x,) in enumerate(torch.utils.data.DataLoader(data, batch_size=4, shuffle=True)):
        last = i % loop.window == loop.window - 1
        if loop.clear_at == "first" and i % loop.window == 0:
            _clear(loop.clear, net, optimizers[0])

        def closure(x: torch.Tensor = x) -> torch.Tensor:
            loss: torch.Tensor = other(net(x)).square().mean()
            scaler.scale(loss).backward()
            return loss

        if loop.closure and last and not loop.scaler:
            losses.append(optimizers[0].step(closure))  # type: ignore[arg-type]
        else:
            losses.append(closure().detach())
            # A scaler refuses to step on no gradients at all.
            if loop.clear_at == "between" and i % 5 == 4 and not loop.scaler:
                _clear(loop.clear, net, optimizers[0])
            if loop.clip:
                nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            if last:
                for optimizer in optimizers:
                    scaler.step(optimizer)
                scaler.update()
        if last and scheduler is not None:
            scheduler.step(*[float(losses[-1])] * (loop.scheduler == "plateau"))
        if loop.clear_at == "last" and last:
            _clear(loop.clear, net, optimizers[0])
        if loop.evaluate and i % 3 == 2:
            net.eval()
            with torch.no_grad():
                losses.append(net(x).sum())
            net.train()
    state = [module.state_dict() for module in (net, other)] + [optimizer.state_dict() for optimizer in optimizers]
    grads = [parameter.grad for parameter in (*net.parameters(), *other.parameters())]
    kept = scheduler.state_dict() if scheduler is not None else None
    return [state, grads, kept, scaler.state_dict(), losses, torch.get_rng_state(), random.getstate()]


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit, NaN included."""
    if isinstance(a, torch.Tensor):
        return bool(isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(_bits(a), _bits(b)))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b) or callable(a)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=150)
@given(loops)
def test_watched_equals_bare_bit_for_bit(loop: Loop) -> None:
    bare = train(loop)
    with loopkit.watch(skip=["console"], plugins=[Events()]) as run:
        watched = train(loop)
    assert not run.failures
    assert run.steps > 0 or loop.batches < loop.window
    assert same(bare, watched)


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=25)
@given(loops)
def test_probes_change_nothing_either(loop: Loop) -> None:
    bare = train(loop)
    with loopkit.watch(skip=["console"], probe=True) as run:
        watched = train(loop)
    assert not run.failures
    assert same(bare, watched)


def test_the_comparison_sees_one_bit() -> None:
    one = torch.tensor([1.0, float("nan")])
    other = one.clone()
    assert same(one, other)
    other.view(torch.int32)[0] += 1
    assert not same([{"a": one}], [{"a": other}])
