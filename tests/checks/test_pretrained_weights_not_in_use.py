"""pretrained-weights-not-in-use: found where it is, silent on what looks like it."""

from __future__ import annotations

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

RULE = "pretrained-weights-not-in-use"
State = dict[str, Any]


def train(net: nn.Module) -> None:
    optimizer = adamw(net)
    for x, y in batches(3):
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()


def prefixed(net: nn.Module, prefix: str = "module.") -> State:
    return {f"{prefix}{key}": value for key, value in net.state_dict().items()}


def from_wrapped(prefix: str = "module.") -> None:
    state = prefixed(model(), prefix)
    net = model()
    net.load_state_dict(state, strict=False)
    train(net)


def filters(path: Path, prefix: str) -> None:
    torch.save(prefixed(model(), prefix), path)
    net = model()
    own = net.state_dict()
    loaded = torch.load(path)
    own.update({key: value for key, value in loaded.items() if key in own})
    net.load_state_dict(own)
    train(net)


SNAPSHOTS = {RULE: from_wrapped}


def one(function: Callable[[], None]) -> Finding:
    (finding,) = find(function, select=[RULE])
    return finding


def test_found_where_it_is_loaded() -> None:
    finding = one(from_wrapped)
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(from_wrapped, "load_state_dict")
    assert '4 of 4 parameters were not found: in the state they have the prefix "module."' in finding.seen


@pytest.mark.parametrize("prefix", ["_orig_mod.", "model.", "module.encoder."])
def test_found_with_other_prefixes(prefix: str) -> None:
    assert f'"{prefix}"' in one(functools.partial(from_wrapped, prefix)).seen


def test_found_where_the_module_has_the_prefix() -> None:
    def into_wrapped() -> None:
        net = nn.DataParallel(model())
        net.load_state_dict(model().state_dict(), strict=False)

    assert "without 'module.'" in one(into_wrapped).seen


def test_found_where_no_name_is_known() -> None:
    def other_model() -> None:
        model().load_state_dict(prefixed(model(), "x_"), strict=False)

    assert "none of its 4 parameters is in the state" in one(other_model).seen


def test_found_where_a_filter_let_nothing_through(tmp_path: Path) -> None:
    finding = one(functools.partial(filters, tmp_path / "w.pt", "module."))
    assert "the 4 tensors read at" in finding.seen
    assert finding.places["read"].line == line_of(filters, "torch.load")


def new_head(_: Path) -> None:
    state = model().state_dict()
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    net.load_state_dict({key: value for key, value in state.items() if not key.startswith("2.")}, strict=False)


def head_renamed_on_purpose(_: Path) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    state = net.state_dict()
    state |= {f"aux.{key}": state.pop(key) for key in ("3.weight", "3.bias")}
    net.load_state_dict(state, strict=False)


def adapters(_: Path) -> None:
    net = nn.ModuleDict({"base": model(), "adapter": nn.Linear(2, 2)})
    state = {f"adapter.{key}": value for key, value in nn.Linear(2, 2).state_dict().items()}
    net.load_state_dict(state, strict=False)


def a_filter_that_picks(folder: Path) -> None:
    filters(folder / "w.pt", "")


def converted(folder: Path) -> None:
    torch.save(prefixed(model()), folder / "w.pt")
    net = model()
    state = {key.removeprefix("module."): value.float() for key, value in torch.load(folder / "w.pt").items()}
    net.load_state_dict(state)


def converted_and_assigned(folder: Path) -> None:
    torch.save(prefixed(model()), folder / "w.pt")
    net = model()
    net.state_dict()
    state = {key.removeprefix("module."): value.double() for key, value in torch.load(folder / "w.pt").items()}
    net.load_state_dict(state, assign=True)


def read_for_another(folder: Path) -> None:
    teacher, net = model(), model()
    torch.save(teacher.state_dict(), folder / "w.pt")
    teacher.load_state_dict(torch.load(folder / "w.pt"))
    net.load_state_dict(net.state_dict())


def several_states_of_one_file(folder: Path) -> None:
    nets = {"actor": model(), "critic": model()}
    torch.save({name: net.state_dict() for name, net in nets.items()}, folder / "w.pt")
    state = torch.load(folder / "w.pt")
    for name, net in nets.items():
        net.load_state_dict(state[name])


def an_empty_state(_: Path) -> None:
    model().load_state_dict({}, strict=False)


@pytest.mark.parametrize(
    "loop",
    [
        new_head,
        adapters,
        a_filter_that_picks,
        converted,
        converted_and_assigned,
        read_for_another,
        several_states_of_one_file,
        an_empty_state,
    ],
)
def test_look_alikes_are_left_alone(loop: Callable[[Path], None], tmp_path: Path) -> None:
    assert RULE not in rules(functools.partial(loop, tmp_path))


def test_a_few_names_under_another_prefix_are_info(tmp_path: Path) -> None:
    assert one(functools.partial(head_renamed_on_purpose, tmp_path)).severity is Severity.INFO
