"""input-suspicious: inputs whose size spoils the first loss, and batches of one sample, are found; others are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from loopkit import Confidence, Finding, Severity
from loopkit_plugins.checks.data.input_suspicious import InputSuspicious
from tests.loops import adamw
from tests.watched import find, line_of

RULE = "input-suspicious"


def found(loop: Callable[[], Any]) -> list[Finding]:
    return [each for each in find(loop, autoload=False, plugins=[InputSuspicious]) if each.rule == RULE]


def pixels() -> Tensor:
    return torch.randint(0, 256, (8, 3, 6, 6)).float()


def convolution(normalise: bool = False) -> nn.Module:
    first = nn.BatchNorm2d(3) if normalise else nn.Identity()
    return nn.Sequential(first, nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4))


def raw_pixels() -> None:
    torch.manual_seed(0)
    net = convolution()
    optimizer = adamw(net)
    for _ in range(4):
        images = pixels()
        optimizer.zero_grad()
        scores = net(images)
        F.cross_entropy(scores, torch.arange(8) % 4).backward()
        optimizer.step()


def identical() -> None:
    torch.manual_seed(0)
    net = nn.Linear(4, 4)
    optimizer = adamw(net)
    for _ in range(4):
        x = torch.randn(1, 4).expand(8, 4)
        optimizer.zero_grad()
        scores = net(x)
        F.cross_entropy(scores, torch.arange(8) % 4).backward()
        optimizer.step()


class Captioner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(32, 4)
        self.images = nn.Linear(12, 4)

    def forward(self, input_ids: Tensor, pixel_values: Tensor) -> Tensor:
        scores: Tensor = self.words(input_ids).mean(1) + self.images(pixel_values.flatten(1))
        return scores


def described(rows: int, name: str = "input_ids", images: int = 8, extra: tuple[int, ...] = ()) -> None:
    """Images with as many rows of tokens as there are, or fewer."""
    torch.manual_seed(0)
    net = Captioner()
    optimizer = adamw(net)
    made = [{name: torch.randint(32, (rows, 5)), "pixel_values": torch.randn(images, 3, 2, 2)} for _ in range(4)]
    if extra:
        made = [{**each, "sizes": torch.zeros(extra)} for each in made]
    for batch in DataLoader(made, batch_size=None):  # type: ignore[arg-type]
        optimizer.zero_grad()
        scores = net(batch[name], batch["pixel_values"])
        F.cross_entropy(scores, torch.arange(len(scores)) % 4).backward()
        optimizer.step()


def one_row() -> None:
    described(1)


SNAPSHOTS = {"input-suspicious": raw_pixels, "input-suspicious-same": identical, "input-suspicious-row": one_row}


def test_one_row_of_tokens_for_many_images_is_a_fact() -> None:
    (finding,) = found(one_row)
    assert (finding.severity, finding.confidence) == (Severity.INFO, Confidence.FACT)
    assert finding.evidence["samples"] == 8
    assert finding.place is not None
    assert finding.place.line == line_of(described, "scores = net")


@pytest.mark.parametrize(
    "loop",
    [
        lambda: described(8),
        lambda: described(1, images=2),
        lambda: described(1, name="position_ids"),
        lambda: described(1, name="attention_mask"),
        lambda: described(1, extra=(16, 2)),
        lambda: described(1, extra=(1, 5)),
    ],
)
def test_rows_that_belong_together_are_left_alone(loop: Callable[[], Any]) -> None:
    assert found(loop) == []


def loop_of(
    model: Callable[[], nn.Module],
    inputs: Callable[[], tuple[Tensor, ...]],
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> Callable[[], None]:
    def loop() -> None:
        torch.manual_seed(0)
        net = model()
        optimizer = adamw(net)
        for _ in range(4):
            given = inputs()
            optimizer.zero_grad()
            loss(net(*given), torch.arange(len(given[0])) % 4).backward()
            optimizer.step()

    return loop


def test_found_at_the_call_of_the_model_with_both_numbers() -> None:
    (finding,) = found(raw_pixels)
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.HEURISTIC)
    assert finding.place is not None
    assert finding.place.line == line_of(raw_pixels, "net(images)")
    assert finding.seen.startswith("the input of Sequential lies between 0 and 255, and its first loss is ")
    assert finding.seen.endswith("where a guess has 1.39")


def test_identical_samples_are_found() -> None:
    (finding,) = found(identical)
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.FACT)
    assert finding.place is not None
    assert finding.place.line == line_of(identical, "net(x)")
    assert finding.seen.startswith("all 8 samples given to Linear at once were the same")


class Graph(nn.Module):
    """Nodes without features of their own, and edges."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        made: Tensor = self.head(edges @ x)
        return made


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = convolution()

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.inner(x / 255)
        return made


@pytest.mark.parametrize(
    "loop",
    [
        loop_of(convolution, lambda: (pixels() / 255,)),
        loop_of(lambda: convolution(True), lambda: (pixels(),)),
        loop_of(Scaled, lambda: (pixels(),)),
        loop_of(convolution, lambda: (pixels(),), lambda z, y: F.mse_loss(z[:, 0], y.float())),
        loop_of(lambda: nn.Sequential(nn.Embedding(300, 4)), lambda: (torch.randint(0, 300, (8,)),)),
        loop_of(lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), lambda: (torch.randn(8, 4) * 3,)),
        loop_of(Graph, lambda: (torch.ones(8, 4), torch.rand(8, 8))),
        loop_of(lambda: nn.Linear(4, 4), lambda: (torch.ones(2, 4),)),
    ],
)
def test_look_alikes_are_left_alone(loop: Callable[[], None]) -> None:
    assert found(loop) == []
