"""EarlyStopping: when it stops, judged by an oracle; how it ends a loop; what it restores."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import loopkit
from loopkit import StopTraining, UsageError
from loopkit_plugins.control import EarlyStopping
from tests.cli.command import loopkit as command
from tests.control.test_evaluations import data, epoch
from tests.loops import adamw, model


def oracle(values: list[float], patience: int, sign: int, delta: float, relative: bool) -> int | None:
    """The index at which training stops: the first with `patience` values in a row that beat nothing."""
    best: float | None = None
    misses = 0
    for i, value in enumerate(values):
        needed = 0.0 if best is None else delta * (abs(best) if relative else 1)
        if math.isfinite(value) and (best is None or sign * value < sign * best - needed):
            best, misses = value, 0
        else:
            misses += 1
        if misses == patience:
            return i
    return None


numbers = st.one_of(
    st.sampled_from([-10.0, -9.5, -9.2, -1.0, 0.0, 0.5, 1.0, 9.0, math.nan, math.inf, -math.inf]), st.floats(-20, 20)
)
sequences = st.lists(numbers, max_size=20)
choices: dict[str, Any] = {
    "patience": st.integers(1, 4),
    "mode": st.sampled_from(["min", "max"]),
    "min_delta": st.sampled_from([0.0, 0.1, 0.5]),
    "min_delta_mode": st.sampled_from(["abs", "rel"]),
}


@given(sequences, st.fixed_dictionaries(choices))
def test_it_stops_where_the_oracle_does(values: list[float], options: dict[str, Any]) -> None:
    stopper = EarlyStopping("m", check_finite=False, **options)
    stopped = next((i for i, value in enumerate(values) if stopper.judge(value, i) is not None), None)
    sign = 1 if options["mode"] == "min" else -1
    relative = options["min_delta_mode"] == "rel"
    assert stopped == oracle(values, options["patience"], sign, options["min_delta"], relative)


@given(sequences, st.fixed_dictionaries(choices), st.integers(0, 20))
def test_a_state_saved_midway_goes_on_as_if_nothing_had_happened(
    values: list[float], options: dict[str, Any], cut: int
) -> None:
    straight, first = EarlyStopping("m", **options), EarlyStopping("m", **options)
    reasons = [straight.judge(value, i) for i, value in enumerate(values)]
    again = [first.judge(value, i) for i, value in enumerate(values[:cut])]
    second = EarlyStopping("m", **options)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    again += [second.judge(value, cut + i) for i, value in enumerate(values[cut:])]
    assert again == reasons
    assert second.state_dict() == straight.state_dict()


def test_a_relative_margin_of_negative_scores_is_a_share_of_their_size() -> None:
    stopper = EarlyStopping("m", patience=3, min_delta=0.1, min_delta_mode="rel")
    reasons = [stopper.judge(value, i) for i, value in enumerate([-10.0, -9.5, -9.2, -9.0])]
    assert reasons[:3] == [None] * 3
    assert reasons[3] == "m did not improve by 10% in 3 evaluations: best -10 at step 0, now -9 at step 3"


def test_what_is_not_finite_stops_at_once_with_its_reason() -> None:
    assert EarlyStopping("m").judge(math.nan, 7) == "m is nan at step 7"
    assert EarlyStopping("m", start_from=5).judge(-math.inf, 7) == "m is -inf at step 7"


def test_thresholds_and_a_late_start() -> None:
    stopper = EarlyStopping("m", stopping_threshold=0.5, divergence_threshold=10.0)
    assert stopper.judge(9.9, 1) is None
    assert stopper.judge(0.5, 2) == "m is 0.5 at step 2, as good as the stopping threshold 0.5"
    assert stopper.judge(10.1, 3) == "m is 10.1 at step 3, worse than the divergence threshold 10"
    late = EarlyStopping("m", patience=1, start_from=2)
    assert [late.judge(value, 0) for value in (1.0, 2.0, 5.0)] == [None] * 3
    assert late.best == 5.0
    assert late.judge(5.0, 0) is not None  # a tie is no improvement
    higher = EarlyStopping("m", mode="max", stopping_threshold=0.9, divergence_threshold=0.1)
    assert [higher.judge(value, 0) is None for value in (0.1, 0.5, 0.9, 0.05)] == [True, True, False, False]


@pytest.mark.parametrize(
    "options",
    [{"mode": "auto"}, {"patience": 0}, {"min_delta": -1}, {"min_delta": math.nan}, {"min_delta_mode": "x"}],
)
def test_arguments_that_cannot_be_meant_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="EarlyStopping"):
        EarlyStopping("val/loss", **options)


# -- loops -----------------------------------------------------------------------------------------------


def _worse_and_worse(net: nn.Module, epochs: int = 10) -> list[float]:
    """A foreign loop whose validation loss rises: it trains away from what is validated."""
    train, val = data(), data()
    optimizer = adamw(net)
    told = []
    for _ in range(epochs):
        epoch(net, optimizer, train, lambda output, target: F.mse_loss(output, target + 9))
        with torch.no_grad():
            told.append(sum(F.mse_loss(net(x), y - 9).item() for x, y in val))
    return told


def test_it_ends_a_foreign_loop_before_another_update_and_the_code_behind_the_with_runs() -> None:
    stopper, net = EarlyStopping("val/loss", patience=2), model()
    with loopkit.watch(plugins=[stopper], autoload=False) as run:
        _worse_and_worse(net)
        pytest.fail("the loop went on")
    assert run.steps == 9  # the best after the first epoch, two more, and not one update of the fourth
    assert stopper.reason == run.stopping
    assert "val/loss did not improve in 2 evaluations: best" in str(stopper.reason)
    assert "at step 3, now" in str(stopper.reason)
    assert not run.failures


def test_the_best_weights_come_back() -> None:
    stopper, net, other = EarlyStopping("val/loss", patience=2, restore_best=True), model(), model()
    other.load_state_dict(net.state_dict())
    rng = torch.get_rng_state()
    with loopkit.watch(plugins=[stopper], autoload=False):
        _worse_and_worse(net)
    torch.set_rng_state(rng)
    _worse_and_worse(other, epochs=1)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True))


def test_the_best_weights_come_back_at_the_end_of_a_run_that_was_not_stopped() -> None:
    stopper, net, other = EarlyStopping("val/loss", patience=9, restore_best=True), model(), model()
    other.load_state_dict(net.state_dict())
    rng = torch.get_rng_state()
    with loopkit.watch(plugins=[stopper], autoload=False) as run:
        _worse_and_worse(net, epochs=3)
    assert run.ending == "complete"
    torch.set_rng_state(rng)
    _worse_and_worse(other, epochs=1)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True))


def test_patience_that_ends_with_the_run_cuts_nothing_short() -> None:
    with loopkit.watch(plugins=[EarlyStopping("val/loss", patience=2)], autoload=False) as run:
        _worse_and_worse(model(), epochs=3)
    assert (run.ending, run.steps, run.stopping) == ("complete", 9, None)


def test_a_watched_loop_that_is_not_stopped_ends_as_a_bare_one() -> None:
    def end(watched: bool) -> list[torch.Tensor]:
        torch.manual_seed(3)
        net = model()
        if watched:
            with loopkit.watch(plugins=[EarlyStopping("val/loss", patience=99)], autoload=False):
                told = _worse_and_worse(net, 3)
        else:
            told = _worse_and_worse(net, 3)
        return [*net.state_dict().values(), torch.tensor(told), torch.get_rng_state()]

    assert all(torch.equal(a, b) for a, b in zip(end(True), end(False), strict=True))


def test_a_logged_value_outside_of_evaluations_counts_at_once() -> None:
    with loopkit.watch(plugins=[EarlyStopping("x", patience=1)], autoload=False) as run:
        loopkit.log("x", 1.0)
        with pytest.raises(StopTraining):
            loopkit.log("x", torch.tensor(1.0))
    assert run.stopping is not None


def test_a_name_that_is_never_logged_is_said_with_those_that_are(capsys: pytest.CaptureFixture[str]) -> None:
    with loopkit.watch(plugins=[EarlyStopping("val/lss")]):
        _worse_and_worse(model(), epochs=2)
    told = "EarlyStopping monitors 'val/lss', which is not logged; logged is 'val/loss'; did you mean 'val/loss'?"
    err = capsys.readouterr().err
    assert err.count(f"loopkit: {told}") == 1
    assert f"not checked  early-stopping: {told}" in err


SCRIPT = """
import torch, torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
torch.set_num_threads(1)
torch.manual_seed(0)
x = torch.randn(12, 4)
train, val = (DataLoader(TensorDataset(x, x[:, :2] + shift), batch_size=4) for shift in (9.0, -9.0))
net = torch.nn.Linear(4, 2)
optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
updates = passes = 0
def fit(epoch, batches):
    global updates
    for a, b in batches:
        optimizer.zero_grad()
        F.mse_loss(net(a), b).backward()
        optimizer.step()
        updates += 1
LOOP
with torch.no_grad():
    seen = sum(len(a) for a, b in val)
print("behind", updates, passes, seen)
"""
EPOCHS = """
for epoch in range(10):
    fit(epoch, BATCHES)
    passes += 1
    with torch.no_grad():
        print("val", sum(F.mse_loss(net(a), b).item() for a, b in val) > 0)
"""
STOPPER = """
from loopkit_plugins.control import EarlyStopping
stopper = EarlyStopping("val/loss", patience=2)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "stoppers.py").write_text(STOPPER)
    return tmp_path


def _run(folder: Path, loop: str, head: str = "") -> Any:
    (folder / "train.py").write_text(head + SCRIPT.replace("LOOP", loop))
    return command("run", "--plugin", "stoppers:stopper", "train.py", cwd=folder)


@pytest.mark.parametrize("batches", ["train", "enumerate(train)", "[*train]"])
def test_under_loopkit_run_the_loader_ends_and_the_script_goes_on_behind_its_loop(folder: Path, batches: str) -> None:
    loop = EPOCHS.replace("BATCHES", batches)
    if "enumerate" in batches:
        loop = loop.replace("enumerate(train)", "(batch for i, batch in enumerate(train))")
    done = _run(folder, loop)
    assert done.code == 0, done.err
    # 3 epochs of 3 updates; 7 more passes at no batch each, with evaluations that work; then the code behind.
    assert done.out.splitlines() == ["val True"] * 10 + ["behind 9 10 12"]
    assert "loopkit: stopping: val/loss did not improve in 2 evaluations: best" in done.err
    assert "stopped      val/loss did not improve in 2 evaluations" in done.err


def test_batches_that_are_shown_end_too(folder: Path) -> None:
    done = _run(folder, "rows = list(train)\n" + EPOCHS.replace("BATCHES", "loopkit.batches(rows)"), "import loopkit")
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == "behind 9 10 12"


ENDLESS = """
def endless():
    while True:
        yield from train
batches = endless()
"""
NEXT = """
it = iter(train)
def take():
    global it
    try:
        return next(it)
    except StopIteration:
        it = iter(train)
        return next(it)
"""
NO_LOADER = """
def take():
    return x, x[:, :2] + 9.0
"""


@pytest.mark.parametrize(
    ("head", "batches", "why"),
    [
        (ENDLESS, "[next(batches) for _ in range(3)]", "its generator begins the DataLoader anew for ever"),
        (NEXT, "[take() for _ in range(3)]", "its code calls next() on the DataLoader's iterator"),
        (NO_LOADER, "[take() for _ in range(3)]", "this loop has no DataLoader"),
    ],
)
def test_a_loop_that_cannot_be_ended_runs_on_and_says_so(folder: Path, head: str, batches: str, why: str) -> None:
    done = _run(folder, head + EPOCHS.replace("BATCHES", batches))
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == "behind 30 10 12"
    assert done.err.count(why) == 2  # when it was asked, and in the report
    assert "asked to stop (val/loss did not improve" in done.err
