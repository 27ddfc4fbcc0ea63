"""tying-broken-or-doubled: found where the optimizer is made, silent on weights that are one object."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from loopkit import Confidence, Severity
from tests.loops import batches, loss_of, model
from tests.watched import find, line_of, rules

RULE = "tying-broken-or-doubled"


class Tied(nn.Module):
    """Embeds and reads out; `way` is how the two weights are tied."""

    _tied_weights_keys = ("out.weight",)

    def __init__(self, way: str, says: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.out = nn.Linear(4, 6, bias=False)
        self.config = SimpleNamespace(tie_word_embeddings=says)
        if way == "data":
            self.out.weight.data = self.embed.weight.data
        elif way == "object":
            self.out.weight = self.embed.weight

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def get_output_embeddings(self) -> nn.Module:
        return self.out

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.embed(x))
        return out


def train(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for _ in range(4):
        tokens = torch.randint(0, 6, (8,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(tokens), tokens.roll(1)).backward()
        optimizer.step()


def through_data() -> None:
    net = Tied("data")
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    train(net, optimizer)


def untied() -> None:
    net = Tied("not", says=True)
    train(net, torch.optim.AdamW(net.parameters(), lr=0.01))


SNAPSHOTS = {RULE: through_data, f"{RULE}-untied": untied}


def test_found_where_the_optimizer_is_constructed() -> None:
    (finding,) = find(through_data)
    assert finding.rule == RULE
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(through_data, "optimizer = ")
    assert finding.subject == "Tied.embed.weight and Tied.out.weight"
    assert "on the same 24 numbers" in finding.seen


def test_found_where_a_configuration_says_otherwise() -> None:
    (finding,) = find(untied)
    assert finding.rule == RULE
    assert finding.place is not None
    assert finding.place.line == line_of(train, "backward()")
    assert "tie_word_embeddings" in finding.seen


@pytest.mark.parametrize(("way", "says"), [("object", False), ("object", True), ("not", False)])
def test_silent_on_what_is_tied_or_meant_to_be_apart(way: str, says: bool) -> None:
    def loop() -> None:
        net = Tied(way, says)
        train(net, torch.optim.AdamW(net.parameters(), lr=0.01))

    assert rules(loop) == []


def test_silent_on_a_model_that_cannot_say() -> None:
    def loop() -> None:
        net = Tied("not", says=True)
        net.get_output_embeddings = None  # type: ignore[assignment,method-assign]
        train(net, torch.optim.AdamW(net.parameters(), lr=0.01))

    assert rules(loop) == []


def test_silent_on_a_frozen_side() -> None:
    def loop() -> None:
        net = Tied("data")
        net.embed.requires_grad_(False)
        train(net, torch.optim.AdamW(net.parameters(), lr=0.01))

    assert RULE not in rules(loop)


def test_silent_on_views_of_one_buffer() -> None:
    def loop() -> None:
        net = model()
        flat = torch.cat([each.detach().flatten() for each in net.parameters()])
        at = 0
        for each in net.parameters():
            each.data = flat[at : at + each.numel()].view_as(each)
            at += each.numel()
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
        for x, y in batches():
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()

    assert rules(loop) == []


def test_silent_on_a_recurrent_layer() -> None:
    def loop() -> None:
        net = nn.LSTM(4, 3, num_layers=2)
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
        for x, _ in batches():
            optimizer.zero_grad()
            net(x)[0].pow(2).mean().backward()
            optimizer.step()

    assert rules(loop) == []
