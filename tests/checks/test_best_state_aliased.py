"""best-state-aliased: found where it is, silent on what looks like it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from loopkit import Confidence, Finding, Severity
from tests.loops import adamw, batches, loss_of, model
from tests.watched import find, line_of, rules

RULE = "best-state-aliased"
Keep = Callable[[nn.Module], Any]


def train(net: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
    optimizer = optimizer or adamw(net)
    for x, y in batches(3):
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()


def live(net: nn.Module) -> Any:
    return net.state_dict()


def restores(keep: Keep = live, optimizer: Any = adamw) -> None:
    net = model()
    used = optimizer(net)
    train(net, used)
    best = keep(net)
    train(net, used)
    net.load_state_dict(best)


def swaps_with_averaged() -> None:
    net = model()
    averaged = copy.deepcopy(net)
    train(net)
    backup = net.state_dict()
    net.load_state_dict(averaged.state_dict())
    net.load_state_dict(backup)  # back


SNAPSHOTS = {RULE: restores}


def one(function: Callable[[], None]) -> Finding:
    (finding,) = find(function, select=[RULE])
    return finding


def test_found_where_it_was_taken() -> None:
    finding = one(restores)
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(live, "state_dict")
    assert finding.places["used"].line == line_of(restores, "load_state_dict")
    assert "3 updates ago" in finding.seen


@pytest.mark.parametrize(
    "keep",
    [
        lambda net: net.state_dict().copy(),
        lambda net: {key: value.cpu() for key, value in net.state_dict().items()},
        lambda net: dict(net.state_dict()),
    ],
)
def test_what_copies_no_tensor_is_found_too(keep: Keep) -> None:
    assert one(functools.partial(restores, keep)).severity is Severity.ERROR


def test_found_where_the_optimizer_is_fused() -> None:
    assert one(functools.partial(restores, optimizer=lambda net: torch.optim.AdamW(net.parameters(), fused=True)))


def test_found_where_the_trained_weights_are_to_come_back_after_averaged_ones() -> None:
    assert one(swaps_with_averaged).places["used"].line == line_of(swaps_with_averaged, "# back")


def test_a_file_called_best_with_the_latest_weights_is_a_warning(tmp_path: Path) -> None:
    def saves_late() -> None:
        net = model()
        train(net)
        best = {"model": net.state_dict()}
        train(net)
        torch.save(best, tmp_path / "best.pt")

    finding = one(saves_late)
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.FACT)
    assert "written to best.pt 3 updates later" in finding.seen


def saves_at_once(folder: Path) -> None:
    net = model()
    for _ in range(2):
        train(net)
        torch.save(net.state_dict(), folder / "best.pt")
    net.load_state_dict(torch.load(folder / "best.pt"))


def saves_a_live_state(folder: Path) -> None:
    net = model()
    state = {"model": net.state_dict()}
    for _ in range(2):
        train(net)
        torch.save(state, folder / "last.pt")


def into_another(_: Path) -> None:
    net, other = model(), model()
    state = net.state_dict()
    train(net)
    other.load_state_dict(state)


def put_back_unchanged(_: Path) -> None:
    net = model()
    train(net)
    state = net.state_dict()
    for _again in range(3):
        net.load_state_dict(state)
    train(net)


def assigned_from_a_copy(_: Path) -> None:
    net = model()
    train(net)
    best = copy.deepcopy(net.state_dict())
    train(net)
    net.load_state_dict(best, assign=True)


def written_into(_: Path) -> None:
    net, other = model(), model()
    train(net)
    state = net.state_dict()
    for key, value in other.state_dict().items():
        state[key].copy_(value)
    net.load_state_dict(state)


def moved_and_put_back(_: Path) -> None:
    net = model()
    train(net)
    net.load_state_dict(net.state_dict())
    train(net)
    net.load_state_dict(net.state_dict())


def target_network(_: Path) -> None:
    net, target = model(), model()
    optimizer = adamw(net)
    for x, y in batches(6):
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()
        mixed = target.state_dict()
        for key, value in net.state_dict().items():
            mixed[key] = 0.9 * mixed[key] + 0.1 * value
        target.load_state_dict(mixed)


@pytest.mark.parametrize(
    "loop",
    [
        saves_at_once,
        saves_a_live_state,
        into_another,
        put_back_unchanged,
        assigned_from_a_copy,
        written_into,
        moved_and_put_back,
        target_network,
    ],
)
def test_look_alikes_are_left_alone(loop: Callable[[Path], None], tmp_path: Path) -> None:
    assert RULE not in rules(functools.partial(loop, tmp_path))


@pytest.mark.parametrize(
    "keep",
    [
        lambda net: copy.deepcopy(net.state_dict()),
        lambda net: {key: value.clone() for key, value in net.state_dict().items()},
    ],
)
def test_copies_are_left_alone(keep: Keep) -> None:
    assert RULE not in rules(functools.partial(restores, keep))
