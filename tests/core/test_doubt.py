"""What values give away that versions do not is said of gradients that were written, and of no others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import loopkit
from tests.loops import batches, loss_of, model

HIDDEN = "gradients of SGD are written through .data, which leaves no trace"


def _climb(net: nn.Module) -> None:
    """As sharpness-aware minimisation does with its first gradient."""
    with torch.no_grad():
        for weight in net.parameters():
            assert weight.grad is not None
            weight.add_(weight.grad, alpha=0.1)


def _replace(net: nn.Module) -> None:
    for weight in net.parameters():
        assert weight.grad is not None
        weight.grad.data.normal_()


@pytest.mark.parametrize(("between", "said"), [(_climb, []), (_replace, [HIDDEN])])
def test_moved_weights_are_no_written_gradients(between: Callable[[nn.Module], None], said: list[str]) -> None:
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with loopkit.watch(autoload=False) as run:
        for x, y in batches(4):
            loss_of(net(x), y).backward()
            if between is _climb:
                between(net)
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            if between is _replace:
                optimizer.zero_grad(set_to_none=False)
                between(net)
            optimizer.step()
            optimizer.zero_grad()
    assert [why for _, why in run.not_checked() if ".data" in why] == said
