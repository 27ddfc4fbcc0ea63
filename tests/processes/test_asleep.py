"""A child before it trains: light, roused once, and without a trace after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from loopkit import asleep
from loopkit.asleep import Asleep, Ticket
from loopkit.testing.torchstate import differences, picture
from tests.loops import adamw, model

TICKET = Ticket("/nowhere", (), ())


def _makes_an_optimizer() -> None:
    adamw(model())


def _runs_backward() -> None:
    model()(torch.ones(1, 4)).sum().backward()


@pytest.mark.parametrize("sign", [_makes_an_optimizer, _runs_backward])
def test_roused_once_by_the_first_sign_of_training_and_gone_by_then(sign: Callable[[], None]) -> None:
    before = picture()
    roused: list[list[str]] = []
    Asleep(TICKET, lambda _: roused.append(differences(before, picture())))
    model()(torch.ones(1, 4))
    assert roused == []
    assert asleep.sleeping is not None
    sign()
    sign()
    assert roused == [[]]
    assert asleep.sleeping is None


def test_a_patch_on_top_is_called_once(monkeypatch: pytest.MonkeyPatch) -> None:
    original = torch.autograd.backward
    roused: list[Ticket] = []
    calls: list[int] = []
    Asleep(TICKET, roused.append)
    ours = torch.autograd.backward

    def theirs(*args: Any, **kwargs: Any) -> None:
        calls.append(1)
        ours(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "backward", theirs)
    _runs_backward()
    _runs_backward()
    assert (calls, roused) == ([1, 1], [TICKET])
    assert torch.autograd.backward is theirs
    monkeypatch.undo()
    torch.autograd.backward = original
