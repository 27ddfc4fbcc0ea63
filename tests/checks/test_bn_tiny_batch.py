"""bn-tiny-batch: found where it is, silent on what looks like it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from loopkit import Confidence, Severity
from tests.watched import find, line_of, rules


def images(batch: int, size: int = 6, count: int = 8) -> list[Tensor]:
    return [torch.randn(batch, 1, size, size) for _ in range(count)]


def net(norm: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3), norm or nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))


def train(model: nn.Module, data: list[Tensor], *, evaluate: bool = True) -> None:
    model(data[0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model.train()
    for x in data:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    if evaluate:
        model.eval()
        with torch.no_grad():
            model(data[0])


def one_image_at_a_time() -> None:
    model = net()
    data = images(1)
    with torch.no_grad():
        model(data[0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for x in data:
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        model(data[0])


SNAPSHOTS = {"bn-tiny-batch": one_image_at_a_time}


def test_found_at_the_forward() -> None:
    (finding,) = find(one_image_at_a_time)
    assert finding.rule == "bn-tiny-batch"
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.FACT)
    assert finding.place is not None
    assert finding.place.line == line_of(one_image_at_a_time, "loss = model(x)")
    assert "one sample at a time (batch size 1), with 16 values a channel" in finding.seen


def test_found_for_two_samples_of_two_values() -> None:
    def loop() -> None:
        train(
            nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)),
            [torch.randn(2, 3)] * 8,
            evaluate=False,
        )

    (finding,) = find(loop)
    assert (finding.rule, finding.severity, finding.evidence["values_per_channel"]) == (
        "bn-tiny-batch",
        Severity.WARNING,
        2,
    )


def test_without_an_evaluation_it_is_info() -> None:
    (finding,) = find(lambda: train(net(), images(1), evaluate=False))
    assert finding.severity == Severity.INFO


def test_large_maps_are_info() -> None:
    (finding,) = find(lambda: train(net(), images(1, size=20)))
    assert finding.severity == Severity.INFO
    (finding,) = find(lambda: train(net(), images(2, size=20)))
    assert finding.severity == Severity.INFO


def test_silent_on_batches_of_some_size_and_on_a_small_last_one() -> None:
    assert rules(lambda: train(net(), images(4))) == []
    assert rules(lambda: train(net(), [*images(4, count=7), *images(1, count=1)])) == []


def test_silent_on_other_norms_and_on_evaluation_mode() -> None:
    assert rules(lambda: train(net(nn.GroupNorm(2, 4)), images(1))) == []
    assert rules(lambda: train(net(nn.InstanceNorm2d(4)), images(1))) == []

    def loop() -> None:
        model = net()
        model(images(4)[0])

        class Frozen(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = model

            def train(self, mode: bool = True) -> Frozen:
                super().train(mode)
                model[1].eval()
                return self

            def forward(self, x: Tensor) -> Tensor:
                out: Tensor = self.inner(x)
                return out

        train(Frozen().train(), images(1))

    assert rules(loop) == []


def test_silent_where_the_first_dimension_is_not_the_batch() -> None:
    class Points(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = nn.BatchNorm1d(3), nn.Linear(3, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.norm(x.T[None])[0].T)
            return out

    assert rules(lambda: train(Points(), [torch.randn(8, 3) for _ in range(8)])) == []
