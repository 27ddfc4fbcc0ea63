"""Promise 5: no tensor value is read on the ordinary path; a suspicion reads a bounded number of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import loopkit
from loopkit import doubt
from loopkit.doubt import ASKED
from tests.frameworks import trainers
from tests.loops import adamw, batches, loss_of, model, textbook


class Reads(TorchDispatchMode):
    """Counts operations whose result leaves the device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default):
            self.count += 1
        return func(*args, **(kwargs or {}))


def reads(loop: Callable[[], Any], watched: bool) -> int:
    """Values read by the loop and by us; our own reads are hidden from dispatch modes and counted apart."""
    torch.manual_seed(0)
    counted = Reads()

    def true(tensor: torch.Tensor) -> bool:
        counted.count += 1
        return bool(_true(tensor))

    _true = doubt._true
    with patch.object(doubt, "_true", true), counted:
        if watched:
            with loopkit.watch(skip=["console"]):
                loop()
        else:
            loop()
    return counted.count


@pytest.mark.parametrize("loop", [textbook, trainers.accelerate, trainers.ignite])
def test_an_ordinary_loop_is_read_no_more_than_bare(loop: Callable[[], Any]) -> None:
    assert reads(loop, watched=True) == reads(loop, watched=False)


def test_stale_gradients_are_read_a_bounded_number_of_times() -> None:
    steps = 200

    def clears_through_data() -> None:
        net = model()
        optimizer = adamw(net)
        for x, y in batches(steps):
            for parameter in net.parameters():
                if parameter.grad is not None:
                    parameter.grad.data.zero_()
            loss_of(net(x), y).backward()
            optimizer.step()

    more = reads(clears_through_data, watched=True) - reads(clears_through_data, watched=False)
    # Each question reads at most the four gradients; it is put 8 times, then at the 16th, 32nd, 64th, 128th.
    assert 0 < more <= 4 * (ASKED + 4)
