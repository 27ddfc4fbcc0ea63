"""bn-double-update: found where it is, silent on what looks like it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from loopkit import Confidence, Severity
from tests.loops import adamw, batches, loss_of
from tests.watched import find, line_of, rules


class Net(nn.Module):
    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.head = nn.Linear(4, 2)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        if self.reentrant is None:
            h = self.block(x)
        else:
            h = checkpoint(self.block, x.requires_grad_(), use_reentrant=self.reentrant)
        out: Tensor = self.head(h)
        return out


def checkpointed(reentrant: bool = False) -> None:
    net = Net(reentrant)
    optimizer = adamw(net)
    for x, y in batches(8):
        optimizer.zero_grad()
        loss = loss_of(net(x), y)
        loss.backward()
        optimizer.step()


SNAPSHOTS = {"bn-double-update": checkpointed}


@pytest.mark.parametrize("reentrant", [False, True])
def test_found_at_the_backward(reentrant: bool) -> None:
    (finding,) = find(lambda: checkpointed(reentrant))
    assert finding.rule == "bn-double-update"
    assert (finding.severity, finding.confidence) == (Severity.INFO, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(checkpointed, "loss.backward()")
    assert "Net.block.1" in finding.seen


def test_silent_without_a_checkpoint_and_on_two_calls() -> None:
    def loop() -> None:
        net = Net(None)
        optimizer = adamw(net)
        for x, y in batches(8):
            optimizer.zero_grad()
            (loss_of(net(x), y) + loss_of(net(x * 2), y)).backward()
            optimizer.step()
            with torch.no_grad():
                net(x)

    assert "bn-double-update" not in rules(loop)


def test_silent_on_states_that_are_loaded_between_updates() -> None:
    def loop() -> None:
        net = Net(None)
        optimizer = adamw(net)
        average = {name: each.clone() for name, each in net.state_dict().items()}
        for x, y in batches(8):
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()
            own = {name: each.clone() for name, each in net.state_dict().items()}
            net.load_state_dict(average)
            net.load_state_dict(own)

    assert "bn-double-update" not in rules(loop)
