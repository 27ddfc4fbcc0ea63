"""checkpoint-blocks-grad: found where it is, silent on what looks like it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from loopkit import Confidence, Severity
from tests.loops import adamw, batches, loss_of
from tests.watched import find, line_of, rules

pytestmark = pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")


class Net(nn.Module):
    """A frozen or trainable stem, checkpointed blocks, a head."""

    def __init__(self, call: Callable[[Net, Tensor], Tensor], *, frozen_stem: bool = True) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 8).requires_grad_(not frozen_stem)
        self.block = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        self.blocks = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        self.head = nn.Linear(8, 2)
        self.call = call

    def through(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.call(self, self.stem(x)))
        return out


def reentrant(function: Any, *args: Any) -> Tensor:
    out: Tensor = checkpoint(function, *args, use_reentrant=True)
    return out


def train(net: nn.Module, steps: int = 4) -> None:
    optimizer = adamw(net)
    for x, y in batches(steps):
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()


def frozen_embedding() -> None:
    embed = nn.Linear(4, 8).requires_grad_(False)
    block, head = nn.Linear(8, 8), nn.Linear(8, 2)
    optimizer = torch.optim.AdamW([*block.parameters(), *head.parameters()])
    for x, y in batches(4):
        optimizer.zero_grad()
        hidden = checkpoint(block, embed(x), use_reentrant=True)
        loss_of(head(hidden), y).backward()
        optimizer.step()


SNAPSHOTS = {"checkpoint-blocks-grad": frozen_embedding}


def test_found_at_the_checkpoint_in_the_first_update() -> None:
    (finding,) = find(frozen_embedding)
    assert finding.rule == "checkpoint-blocks-grad"
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(frozen_embedding, "checkpoint(")
    assert finding.subject == "Linear"
    assert "its 2 trainable parameters had none when AdamW stepped" in finding.seen
    assert finding.step == 1


def _closure(net: Net, x: Tensor) -> Tensor:
    def custom(module: nn.Module) -> Callable[..., Tensor]:
        def forward(*inputs: Any) -> Tensor:
            out: Tensor = module(*inputs)
            return out

        return forward

    return reentrant(custom(net.block), x)


CALLS: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "module": lambda net, x: reentrant(net.block, x),
    "forward": lambda net, x: reentrant(net.block.forward, x),
    "call": lambda net, x: reentrant(functools.partial(net.block.__call__), x),
    "partial": lambda net, x: reentrant(functools.partial(net.block), x),
    "method": lambda net, x: reentrant(net.through, x),
    "closure": _closure,
    "lambda": lambda net, x: reentrant(lambda h: net.block(h), x),
    "lambda over a method": lambda net, x: reentrant(lambda h: net.through(h), x),
    "list": lambda net, x: reentrant(lambda h: net.blocks[0](h) + net.block(h) + net.blocks[1](h), x),
    "sequential": lambda net, x: checkpoint_sequential(
        [net.block, *net.blocks], 3, x, use_reentrant=True, preserve_rng_state=True
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_found_however_the_block_is_passed(name: str) -> None:
    assert "checkpoint-blocks-grad" in rules(lambda: train(Net(CALLS[name])))


@pytest.mark.parametrize("name", CALLS)
def test_silent_where_the_input_requires_a_gradient(name: str) -> None:
    assert rules(lambda: train(Net(CALLS[name], frozen_stem=False))) == []


@pytest.mark.parametrize("name", CALLS)
def test_silent_on_frozen_blocks(name: str) -> None:
    def loop() -> None:
        net = Net(CALLS[name])
        net.block.requires_grad_(False)
        net.blocks.requires_grad_(False)
        train(net)

    assert rules(loop) == []


def test_silent_on_the_frozen_one_of_several_blocks() -> None:
    def loop() -> None:
        net = Net(lambda net, x: net.blocks[1](reentrant(lambda h: net.blocks[0](h), x)))
        net.blocks[0].requires_grad_(False)
        train(net)

    assert rules(loop) == []


def test_silent_without_reentrance() -> None:
    assert rules(lambda: train(Net(lambda net, x: checkpoint(net.block, x, use_reentrant=False)))) == []


def test_silent_on_evaluation() -> None:
    def loop() -> None:
        net = Net(CALLS["module"], frozen_stem=False)
        optimizer = adamw(net)
        for x, y in batches(8):
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()
            net.eval()
            with torch.no_grad():
                net(x)
            net.stem.requires_grad_(False)
            net(x)  # without no_grad, but in evaluation mode
            net.stem.requires_grad_(True)
            net.train()

    assert rules(loop) == []


def test_silent_where_another_call_brings_the_gradient() -> None:
    def loop() -> None:
        net = Net(lambda net, x: net.block(reentrant(net.block, x)))
        train(net)

    assert rules(loop) == []


def test_silent_on_a_nested_checkpoint_that_is_recomputed() -> None:
    def loop() -> None:
        inner = nn.Linear(8, 8)
        net = Net(lambda net, x: reentrant(lambda h: reentrant(inner, net.block(h)), x), frozen_stem=False)
        net.inner = inner
        train(net)

    assert rules(loop) == []
