"""frozen-bn-stats-move: found where it is, silent on what looks like it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from loopkit import Confidence, Severity
from tests.watched import find, line_of, rules


class Net(nn.Module):
    def __init__(self, momentum: float = 0.1) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, momentum=momentum))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.backbone(x))
        return out


def pretrained(momentum: float = 0.1) -> Net:
    net = Net(momentum)
    norm = net.backbone[1]
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        norm.running_mean += 0.1
        norm.running_var *= 1.1
    return net


def data(shift: float = 3.0, count: int = 40) -> Iterator[Tensor]:
    for _ in range(count):
        yield torch.randn(8, 4) * 2 + shift


def train(net: Net, shift: float = 3.0, count: int = 40) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for x in data(shift, count):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()


def train_undid_it() -> None:
    torch.manual_seed(0)
    net = pretrained()
    net.backbone.requires_grad_(False)
    net.backbone.eval()
    net.train()
    train(net)


SNAPSHOTS = {"frozen-bn-stats-move": train_undid_it}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_found_at_the_call_of_train() -> None:
    (finding,) = find(train_undid_it)
    assert finding.rule == "frozen-bn-stats-move"
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.FACT)
    assert finding.place is not None
    assert finding.place.line == line_of(train_undid_it, "net.train()")
    assert "1 frozen batch normalisation move: the mean of Net.backbone.1" in finding.seen


def test_a_small_drift_is_info() -> None:
    def loop() -> None:
        net = pretrained(momentum=0.001)
        net.backbone.requires_grad_(False)
        train(net, shift=0.0)

    (finding,) = find(loop)
    assert (finding.rule, finding.severity) == ("frozen-bn-stats-move", Severity.INFO)


@pytest.mark.parametrize("how", ["new layer", "asleep", "momentum", "trained", "norms alone awake", "unfrozen"])
def test_silent_on(how: str) -> None:
    def loop() -> None:
        net = Net() if how == "new layer" else pretrained(0.0 if how == "momentum" else 0.1)
        net.backbone.requires_grad_(how == "trained")
        if how == "asleep":
            net.backbone.eval()
        elif how == "norms alone awake":
            net.eval()
            net.backbone[1].train()
        if how == "unfrozen":
            train(net, count=2)
            net.backbone.requires_grad_(True)
        train(net)

    assert "frozen-bn-stats-move" not in rules(loop)


def test_silent_on_a_discriminator_that_is_frozen_for_the_generators_step() -> None:
    def loop() -> None:
        generator, critic = nn.Linear(3, 4), pretrained()
        for_generator = torch.optim.Adam(generator.parameters())
        for_critic = torch.optim.Adam(critic.parameters())
        for x in data():
            critic.requires_grad_(True)
            for_critic.zero_grad()
            fake = generator(torch.randn(8, 3))
            (critic(x).mean() - critic(fake.detach()).mean()).backward()
            for_critic.step()
            critic.requires_grad_(False)
            for_generator.zero_grad()
            critic(fake).mean().backward()
            for_generator.step()

    assert rules(loop) == []
