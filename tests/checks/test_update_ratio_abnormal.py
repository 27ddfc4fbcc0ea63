"""update-ratio-abnormal: found where it is, silent on what looks like it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loopkit import Confidence, Finding, Severity
from tests.watched import find, line_of

RULE = "update-ratio-abnormal"
Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def adam(rate: float) -> Make:
    return lambda parameters: torch.optim.Adam(parameters, lr=rate)


def sgd(rate: float) -> Make:
    return lambda parameters: torch.optim.SGD(parameters, lr=rate)


def network(inputs: int = 16) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 4))


def batches(steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """A task that can be learned."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(16, 4, generator=generator)
    for _ in range(steps):
        x = torch.randn(32, 16, generator=generator)
        yield x, (x @ weight).argmax(1)


def train(
    make: Make, net: nn.Module | None = None, steps: int = 128, schedule: Any = None, scale: float = 1.0
) -> None:
    torch.manual_seed(0)
    net = net or network()
    optimizer = make(list(net.parameters()))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule) if schedule is not None else None
    for x, y in batches(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y) * scale
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def found(loop: Callable[[], object]) -> list[Finding]:
    return find(loop, select=[RULE])


SNAPSHOTS = {
    RULE: functools.partial(train, adam(1.0)),
    f"{RULE}-small": functools.partial(train, adam(1e-8)),
}


@pytest.mark.parametrize("make", [adam(1.0), sgd(50.0)])
def test_steps_that_overwrite_the_weights_are_a_warning(make: Make) -> None:
    (finding,) = found(functools.partial(train, make))
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.HEURISTIC)
    assert finding.evidence["ratio"] > 0.1
    assert finding.place is not None
    assert finding.place.line == line_of(adam if finding.subject == "Adam" else sgd, "lr=rate")


@pytest.mark.parametrize("make", [adam(1e-8), sgd(1e-6)])
def test_steps_that_leave_the_weights_are_a_warning(make: Make) -> None:
    (finding,) = found(functools.partial(train, make))
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.HEURISTIC)
    assert finding.evidence["ratio"] < 1e-6


def test_where_a_guess_is_not_known_it_is_info() -> None:
    def loop() -> None:
        net = network()
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-8)
        for x, _ in batches(128):
            optimizer.zero_grad()
            (net(x) - 1).abs().mean().backward()
            optimizer.step()

    (finding,) = found(loop)
    assert finding.severity is Severity.INFO


def test_an_error_explains_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from loopkit_plugins.checks.curves.update_ratio_abnormal import UpdateRatioAbnormal

    assert UpdateRatioAbnormal.symptom
    monkeypatch.setitem(UpdateRatioAbnormal.thresholds, "first", 1e9)
    assert found(functools.partial(train, adam(1.0))) == []


class Adapted(nn.Module):
    """A frozen layer with an adapter that begins at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network().requires_grad_(requires_grad=False)
        self.a = nn.Parameter(torch.randn(4, 16) / 4)
        self.b = nn.Parameter(torch.zeros(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x) + x @ self.a.T @ self.b.T
        return out


class Words(nn.Module):
    """A few rows of a large embedding are used; its own noise is the input, so nothing is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(1000, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.words(x[:, 0].abs().mul(100).long())
        return out


def _gains(make: Make) -> None:
    net = nn.LayerNorm(4)
    optimizer = make(list(net.parameters()))
    for x, _ in batches(128):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x[:, :4]), torch.randint(4, (32,))).backward()
        optimizer.step()


def _fine_tuned() -> None:
    net = nn.Linear(16, 4, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.randn(16, 4, generator=torch.Generator().manual_seed(0)).T)
    train(adam(1e-8), net)


def _two() -> None:
    nets = network(), network()
    optimizers = [torch.optim.Adam(net.parameters(), lr=1.0) for net in nets]
    for x, y in batches(128):
        for net, optimizer in zip(nets, optimizers, strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()


def _half() -> None:
    net = network().bfloat16()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-6)
    for x, y in batches(128):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x.bfloat16()), y).backward()
        optimizer.step()


LOOK_ALIKES: dict[str, Callable[[], object]] = {
    "a usual rate": functools.partial(train, adam(1e-3)),
    "large steps that learn": functools.partial(train, adam(0.1)),
    "large steps of sgd that learn": functools.partial(train, sgd(2.0)),
    "a short trial": functools.partial(train, adam(1.0), steps=40),
    "a short trial with a small rate": functools.partial(train, adam(1e-8), steps=40),
    "a long warm-up": functools.partial(train, adam(1e-3), schedule=lambda step: (step + 1) / 1e7),
    "the end of a decay": functools.partial(train, adam(1e-2), schedule=lambda step: 1.0 if step < 64 else 1e-6),
    "an adapter that begins at zero": functools.partial(train, adam(0.02), Adapted()),
    "rows of an embedding": functools.partial(train, adam(1.0), Words()),
    "gains alone": functools.partial(_gains, adam(1.0)),
    "gains alone, barely moved": functools.partial(_gains, adam(1e-8)),
    "weights that were trained before": _fine_tuned,
    "two optimizers": _two,
    "half precision": _half,
    "a rate that is small and enough": functools.partial(train, adam(1e-5)),
}


@pytest.mark.parametrize("name", sorted(LOOK_ALIKES))
def test_look_alikes_are_left_alone(name: str) -> None:
    assert found(LOOK_ALIKES[name]) == []
