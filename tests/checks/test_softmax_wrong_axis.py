"""softmax-wrong-axis: probabilities that do not sum to 1 over the classes are found; nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loopkit import Confidence, Finding, Severity
from loopkit_plugins.checks.loss.softmax_wrong_axis import SoftmaxWrongAxis
from tests.losses import graph_of, loop_of
from tests.watched import find, line_of

RULE = "softmax-wrong-axis"
F = nn.functional
CLASSES = 5
LABELS = torch.arange(8) % CLASSES
TAGS = torch.randint(0, CLASSES, (8, CLASSES))


def found(loop: Callable[[], Any]) -> list[Finding]:
    """What this rule says of a loop."""
    return [each for each in find(loop, autoload=False, plugins=[SoftmaxWrongAxis]) if each.rule == RULE]


def over_the_batch() -> None:
    net = nn.Sequential(nn.Linear(4, CLASSES), nn.LogSoftmax(dim=0))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        loss = F.nll_loss(net(torch.randn(8, 4)), LABELS)
        loss.backward()
        optimizer.step()


class Tagger(nn.Module):
    """Scores of shape (N, T, C) from what a recurrent layer, or none, makes of (N, T, 4)."""

    def __init__(self, inner: nn.Module | None = None, width: int = 4, bias: bool = True) -> None:
        super().__init__()
        self.inner, self.head = inner, nn.Linear(width, CLASSES, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.inner, nn.RNNBase):
            x = self.inner(x)[0]
        elif self.inner is not None:
            x = self.inner(x)
        scores: Tensor = self.head(x)
        return scores


def classes_not_moved() -> None:
    net = Tagger(nn.LSTM(4, 3, batch_first=True, bidirectional=True), 6)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        loss = criterion(net(torch.randn(8, CLASSES, 4)), TAGS)
        loss.backward()
        optimizer.step()


def one_score() -> None:
    net = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(torch.randn(8, 4)), torch.zeros(8, dtype=torch.long))
        loss.backward()
        optimizer.step()


def softmax_over_samples() -> None:
    net = nn.Sequential(nn.Linear(4, CLASSES), nn.Softmax(dim=0))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        loss = F.mse_loss(net(torch.randn(8, 4)), F.one_hot(LABELS, CLASSES).float())
        loss.backward()
        optimizer.step()


SNAPSHOTS = {
    RULE: over_the_batch,
    f"{RULE}-moved": classes_not_moved,
    f"{RULE}-single": one_score,
    f"{RULE}-samples": softmax_over_samples,
}


@pytest.mark.parametrize("loop", [over_the_batch, classes_not_moved, one_score])
def test_found_where_the_loss_is_made(loop: Callable[[], None]) -> None:
    (finding,) = found(loop)
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(loop, "loss =")


def test_before_another_loss_it_is_a_warning() -> None:
    (finding,) = found(softmax_over_samples)
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.FACT)


def test_the_axes_are_named() -> None:
    assert "axis 0 of shape (8, 5)" in found(over_the_batch)[0].seen
    assert "axis 1 of shape (8, 5, 5)" in found(classes_not_moved)[0].seen
    assert "transpose(1, 2)" in found(classes_not_moved)[0].remedy


def of(
    loss: Callable[[Tensor], Tensor],
    model: Callable[[], nn.Module] = lambda: nn.Linear(4, CLASSES),
    make: Callable[[], Tensor] = lambda: torch.randn(8, 4),
) -> list[Finding]:
    """What is said of this loss of the model's scores."""
    return found(loop_of(lambda net, x: loss(net(x)), model, make))


@pytest.mark.parametrize(
    "loss",
    [
        lambda out: F.nll_loss(out.softmax(0).log(), LABELS),
        lambda out: F.cross_entropy(out.softmax(0), LABELS),
        lambda out: F.nll_loss(out.T.log_softmax(1).T, LABELS),
        lambda out: F.nll_loss(out.view(2, 4, -1).log_softmax(1).flatten(0, 1), LABELS),
        lambda out: F.nll_loss(out.view(2, 4, -1).log_softmax(0).transpose(1, 2), LABELS.view(2, 4)),
        lambda out: F.nll_loss(out.view(2, 4, -1).transpose(1, 2).log_softmax(-1), LABELS.view(2, 4)),
    ],
)
def test_found_across_the_classes(loss: Callable[[Tensor], Tensor]) -> None:
    (finding,) = of(loss)
    assert finding.severity is Severity.ERROR


@pytest.mark.parametrize(
    "model",
    [
        Tagger,
        lambda: Tagger(bias=False),
        lambda: Tagger(nn.GRU(4, 4)),
        lambda: Tagger(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)),
        lambda: Tagger(nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4), nn.GELU(), nn.Dropout(0.1))),
    ],
)
def test_found_where_the_classes_were_not_moved(model: Callable[[], nn.Module]) -> None:
    (finding,) = of(lambda out: F.cross_entropy(out, TAGS), model, lambda: torch.randn(8, CLASSES, 4))
    assert "the last axis of the linear layer" in finding.seen


def test_found_where_the_channels_of_a_convolution_were_moved_away() -> None:
    (finding,) = of(
        lambda out: F.cross_entropy(out.transpose(1, 2), TAGS),
        lambda: nn.Conv1d(4, CLASSES, 3, padding=1),
        lambda: torch.randn(8, 4, CLASSES),
    )
    assert "axis 1 of the convolution" in finding.seen


@pytest.mark.parametrize(
    "loss",
    [
        lambda out: F.cross_entropy(out, LABELS),
        lambda out: F.nll_loss(out.log_softmax(-1), LABELS),
        lambda out: F.nll_loss(out.softmax(1).log(), LABELS),
        lambda out: F.nll_loss(out.T.log_softmax(0).T, LABELS),
        lambda out: F.cross_entropy(out[0], LABELS[0]),
        lambda out: F.nll_loss(out[0].log_softmax(0), LABELS[0]),
        lambda out: F.cross_entropy(out.view(2, 4, -1).flatten(0, 1), LABELS),
        lambda out: F.cross_entropy(out.view(2, 4, -1).transpose(1, 2), LABELS.view(2, 4)),
        lambda out: F.mse_loss(out.softmax(1), torch.rand(8, CLASSES)),
        lambda out: (out.softmax(0) * out).sum(0).square().mean(),
        lambda out: F.mse_loss((out.softmax(0) * out).sum(0), torch.rand(CLASSES)),
    ],
)
def test_silent(loss: Callable[[Tensor], Tensor]) -> None:
    assert of(loss) == []


def test_silent_about_classes_that_were_moved() -> None:
    moves: list[Callable[[Tensor], Tensor]] = [
        lambda out: out.transpose(1, 2),
        lambda out: out.permute(0, 2, 1),
        lambda out: out.mT,
    ]
    for move in moves:
        loop = loop_of(partial(_tagged, move), Tagger, partial(torch.randn, 8, CLASSES, 4))
        assert found(loop) == []


def _tagged(move: Callable[[Tensor], Tensor], net: nn.Module, x: Tensor) -> Tensor:
    return F.cross_entropy(move(net(x)), TAGS)


def test_silent_about_convolutions() -> None:
    for model in (
        lambda: nn.Conv1d(4, CLASSES, 1),
        lambda: nn.Sequential(nn.Conv1d(4, CLASSES, 1), nn.Linear(CLASSES, CLASSES)),
        lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Conv1d(4, CLASSES, 1), nn.ReLU(), nn.Linear(CLASSES, CLASSES)),
    ):
        assert of(lambda out: F.cross_entropy(out, TAGS), model, lambda: torch.randn(8, 4, CLASSES)) == []


class Mixer(nn.Module):
    """Works along positions: what its linear layer gives are positions, and classes are on axis 1."""

    def __init__(self) -> None:
        super().__init__()
        self.classes, self.positions = nn.Linear(4, CLASSES), nn.Linear(CLASSES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.positions(self.classes(x).transpose(1, 2).relu())
        return mixed


def test_silent_about_layers_that_work_along_another_axis() -> None:
    assert of(lambda out: F.cross_entropy(out, TAGS), Mixer, lambda: torch.randn(8, CLASSES, 4)) == []


def test_silent_about_contrastive_losses() -> None:
    pairs = torch.arange(8)

    def both_ways(out: Tensor) -> Tensor:
        scores = out @ torch.ones(8, CLASSES).T
        return F.cross_entropy(scores, pairs) + F.cross_entropy(scores.T, pairs)

    def both_axes(out: Tensor) -> Tensor:
        scores = out @ out.T
        return F.nll_loss(scores.log_softmax(0), pairs) + F.nll_loss(scores.log_softmax(1), pairs)

    assert of(both_ways) == []
    assert of(both_axes) == []


def test_silent_about_attention_over_one_entry() -> None:
    def loss(net: nn.Module, x: Tensor) -> Tensor:
        out = net(x)
        weights = out.sum(1, keepdim=True).softmax(1)
        return F.cross_entropy(weights * out, LABELS)

    assert found(loop_of(loss, lambda: nn.Linear(4, CLASSES))) == []


def test_axes_that_cannot_be_followed_are_not_judged() -> None:
    (node,) = graph_of(
        lambda net, x: F.cross_entropy(net(x).view(8, CLASSES, 2), LABELS[:2].expand(8, 2)),
        lambda: nn.Linear(4, 2 * CLASSES),
    )
    assert node.features is None
    assert node.classes == 1
