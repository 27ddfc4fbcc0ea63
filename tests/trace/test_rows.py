"""The row of each kind of loop, as its real code makes it: as a picture, and event by event."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given

from loopkit.trace.cadence import when
from loopkit.trace.picture import drawn
from tests.frameworks import trainers
from tests.loops import adamw, batches, loader, loss_of, model, textbook
from tests.properties import made_loops
from tests.stored import compare
from tests.trace.traced import event, masked, row, traced, traced_run


def raw() -> None:
    """Accumulation, clipping, a schedule, an evaluation now and then, and a tail."""
    net = model()
    optimizer = adamw(net)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    data, held_out = loader(samples=88), loader(samples=8)
    for i, (x, y) in enumerate(data):
        (loss_of(net(x), y) / 4).backward()
        if i % 4 == 3 or i == len(data) - 1:
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        if i % 8 == 7:
            with torch.no_grad():
                for x, _ in held_out:
                    net(x)


def turns() -> None:
    """Two optimizers that take turns."""
    first, second = model(), model()
    one, two = adamw(first), adamw(second)
    for x, y in loader(samples=24):
        one.zero_grad()
        loss_of(first(x), y).backward()
        one.step()
        two.zero_grad()
        loss_of(second(x), y).backward()
        torch.nn.utils.clip_grad_value_(second.parameters(), 1.0)
        two.step()


def never_steps() -> None:
    net = model()
    for x, y in loader():
        loss_of(net(x), y).backward()


LOOPS: dict[str, Callable[[str], Any]] = {
    "raw": lambda folder: raw(),
    "turns": lambda folder: turns(),
    "never-steps": lambda folder: never_steps(),
    "hf-trainer": lambda folder: trainers.hf(folder, 2),
    "accelerate": lambda folder: trainers.accelerate(2),
    "lightning": lambda folder: trainers.lightning(trainers.lightning_module(manual=False), 2),
    "lightning-manual": lambda folder: trainers.lightning(trainers.lightning_module(manual=True)),
    "ignite": lambda folder: trainers.ignite(),
}


@pytest.mark.parametrize("name", sorted(LOOPS))
def test_picture(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    picture = drawn(traced(lambda: LOOPS[name](str(tmp_path))))
    assert max(map(len, picture.splitlines())) <= 80
    compare(f"trace-{name}", masked(picture) + "\n", pytestconfig.getoption("--snapshots-update"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("raw", "(batch → forward → backward) ×4 → clip → step → scheduler → zero_grad"),
        ("hf-trainer", "zero_grad → batch → (forward → backward) ×2 → clip → step → scheduler"),
        ("accelerate", "(batch → forward → backward) ×2 → clip → step → scheduler → zero_grad"),
        ("lightning-manual", "batch → forward → zero_grad → backward → step → scheduler"),
        ("ignite", "batch → zero_grad → forward → backward → step"),
    ],
)
def test_row(name: str, expected: str, tmp_path: Path) -> None:
    assert row(traced(lambda: LOOPS[name](str(tmp_path)))) == expected


@given(made_loops.plans())
def test_rows_are_those_of_the_report(plan: made_loops.Plan) -> None:
    trace, run = traced_run(made_loops.Training(plan).run)
    rows = Counter[str]()
    for each in trace.rows:
        rows[str(each)] += each.count
    assert rows == dict(run.rows())
    assert sum(rows.values()) == trace.updates == run.history.updates


def test_counts_and_lines_of_each_event() -> None:
    trace = traced(lambda: textbook(8))
    counts = {each.event: each.count for each in trace.events}
    assert counts == dict.fromkeys(["batch", "zero_grad", "forward", "backward", "clip", "step", "scheduler"], 8)
    code = {each.event: each.code for each in trace.events}
    assert code["batch"] == "for x, y in loader(samples=4 * steps):"
    assert code["step"] == "optimizer.step()"
    assert code["scheduler"] == "scheduler.step()"
    assert code["clip"] == "torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)"
    assert all(each.place and each.place.file.endswith("loops.py") for each in trace.events)


def test_what_runs_inside_a_step_is_not_counted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(0, 10**12, 10**9))  # each look at the clock is a second after the last
    monkeypatch.setattr("loopkit_plugins.sinks.trace.spans._now", lambda: next(seconds) + 1)

    def loop() -> None:
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        x, y = next(batches(1))

        def closure() -> torch.Tensor:
            loss = loss_of(net(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)

    trace = traced(loop)
    # step begins, forward begins and ends, backward begins and ends, step ends: six looks, five seconds.
    assert {each.event: each.seconds for each in trace.events} == {"forward": 1.0, "backward": 1.0, "step": 3.0}
    assert trace.seconds == 5.0


def test_a_forward_that_raised_takes_no_time_of_others() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for x, y in loader():
            with pytest.raises(RuntimeError):
                net(x[:, :2])
            loss_of(net(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()

    trace = traced(loop)
    assert event(trace, "backward").count == 4
    assert sum(each.seconds or 0.0 for each in trace.events) <= trace.seconds


def test_evaluations_are_one_event_each_with_their_batches() -> None:
    trace = traced(raw)
    evaluation = event(trace, "evaluation")
    assert evaluation.count == 2
    assert trace.evaluations == (2, 4)
    assert event(trace, "batch").count == 22
    assert evaluation.place is not None
    assert evaluation.code == "net(x)"


def test_a_row_that_comes_again_and_again_says_how_often() -> None:
    def loop() -> None:
        for _ in range(4):
            raw()

    trace = traced(loop)
    (tail,) = [each for each in trace.rows if each.words.count("forward") == 2]
    assert (tail.count, tail.first, tail.every) == (4, 6, 6)
    assert when(tail) == "4 updates, every 6th from 6"
    assert [each.every for each in trace.rows if "evaluation" in each.words] == [None]


def test_a_criterion_is_no_forward() -> None:
    def loop() -> None:
        net, criterion = model(), torch.nn.MSELoss()
        optimizer = adamw(net)
        for x, y in loader():
            optimizer.zero_grad()
            criterion(net(x), y).backward()
            optimizer.step()

    assert event(traced(loop), "forward").count == 4


def test_weights_are_the_same_bit_for_bit() -> None:
    nets = []
    for watched in (False, True):
        torch.manual_seed(0)
        net = model()
        optimizer = adamw(net)

        def loop() -> None:
            for x, y in loader():
                optimizer.zero_grad()
                loss_of(net(x), y).backward()
                torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()

        if watched:
            traced(loop)
        else:
            loop()
        nets.append([*net.state_dict().values(), torch.get_rng_state()])
    assert all(torch.equal(one, other) for one, other in zip(*nets, strict=True))


def test_a_very_long_window_has_its_end() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for x, y in loader(samples=800):
            loss_of(net(x), y).backward()
        optimizer.step()

    trace = traced(loop)
    assert row(trace) == "(batch → forward → backward) ×200 → step"
    assert "a step every 200th batch" in drawn(trace)
