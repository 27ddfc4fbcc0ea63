"""The parts of the core, each by itself."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import loopkit
from loopkit import Habit, Kind, Ledger, LoaderReading, Place, Site, hookimpl
from loopkit.errors import did_you_mean
from loopkit.inputs import Inputs
from loopkit.manager import Manager, installed
from loopkit.row import row_of
from loopkit.signature import KINDS, kind_of, subject_of
from loopkit.silence import inline_reason
from tests.loops import adamw, batches, loader, loss_of, model, textbook
from tests.promises.test_cannot_break_training import finding
from tests.watched import Updates, events, find, rules

# -- rows ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "row"),
    [
        ("b f k s", "b → f → k → s"),
        ("b f k b f k s", "(b → f → k) ×2 → s"),
        ("s s s z", "s ×3 → z"),
        ("b b f f b b f f s", "(b ×2 → f ×2) ×2 → s"),
        ("", ""),
    ],
)
def test_a_row_folds_what_repeats(words: str, row: str) -> None:
    folded = row_of(words.split())
    assert folded == row or (words.startswith("b b") and folded == "(b → b → f → f) ×2 → s")


@given(st.lists(st.sampled_from("abc"), max_size=40))
def test_folding_loses_nothing(words: list[str]) -> None:
    def unfold(row: str) -> list[str]:
        found: list[str] = []
        for part in row.replace("(", "[").split(" → ") if row else []:
            found.append(part)
        return found

    row = row_of(words)
    assert len(unfold(row)) <= max(1, len(words))
    assert set("".join(words)) <= set(row)


def test_a_loop_that_never_steps_stays_small_and_is_shown() -> None:
    net = model()
    with loopkit.watch(autoload=False) as run:
        for x, y in batches(3000):
            net.zero_grad()
            loss_of(net(x), y).backward()
    assert len(run.recorder._events) <= 4096 + 8
    assert "(zero_grad → forward → backward)" in run.recorder.unfinished()
    assert ("*", "no optimizer step was seen") in run.not_checked()


# -- signatures and updates ------------------------------------------------------------------------------


@given(st.sampled_from(range(len(KINDS))), st.integers(0, 255), st.integers(0, 2**20 - 1), st.integers(0, 2**31))
def test_a_packed_event_gives_back_kind_and_subject(kind: int, subject: int, shape: int, site: int) -> None:
    code = kind | subject << 4 | shape << 12 | site + 1 << 32
    assert (kind_of(code), subject_of(code)) == (KINDS[kind], subject)


def test_an_update_is_told_at_its_1st_2nd_4th_8th_occurrence() -> None:
    kept = Updates()
    with loopkit.watch(autoload=False, plugins=[kept]) as run:
        textbook(20)
    first, *others = kept.seen  # the first update of an epoch has a signature of its own
    assert first.events[0].reading == LoaderReading(0, 20)
    assert [update.seen for update in others] == [1, 2, 4, 8, 16]
    assert run.rows() == [("batch → zero_grad → forward → backward → clip → step → scheduler", 20)]
    update = kept.seen[-1]
    assert [event.kind for event in update.events][:2] == [Kind.BATCH, Kind.ZERO_GRAD]
    ((_, step),) = update.steps()
    assert (step.optimizer, step.parameters, step.fresh, step.contributions) == ("AdamW", 4, 4, 1)
    ((_, scheduler),) = update.schedulers()
    assert (scheduler.scheduler, scheduler.steps_before, scheduler.position) == ("LambdaLR", 17, 17)


def test_an_evaluation_is_one_event_however_long() -> None:
    kept = Updates()

    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for x, y in loader():
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()
            with torch.no_grad():
                for other, _ in loader():
                    net(other)

    with loopkit.watch(autoload=False, plugins=[kept]) as run:
        loop()
    assert dict(run.rows()) == {
        "batch → zero_grad → forward → backward → step": 1,
        "evaluation → batch → zero_grad → forward → backward → step": 3,
    }


# -- call sites ------------------------------------------------------------------------------------------


def _helper(loss: torch.Tensor) -> None:
    loss.backward()


def test_a_site_is_the_users_line_and_keeps_its_callers() -> None:
    kept = Updates()

    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for x, y in loader(samples=8):
            optimizer.zero_grad()
            loss = loss_of(net(x), y)
            if x[0, 0] < 1e9:
                _helper(loss)
            optimizer.step()

    with loopkit.watch(autoload=False, plugins=[kept]):
        loop()
    site = next(event.site for event in kept.seen[0].events if event.kind is Kind.BACKWARD)
    assert isinstance(site, Site)
    assert site.place.function == "_helper"
    assert [place.function for place in site.chain[:2]] == [
        "_helper",
        "test_a_site_is_the_users_line_and_keeps_its_callers.<locals>.loop",
    ]
    assert site.framework is None
    assert Path(site.place.file) == Path(__file__)
    assert str(site.place) == f"test_parts.py:{site.place.line}"


class Doubled(torch.optim.SGD):
    """Steps another optimizer inside its own step, in the user's own file."""

    def __init__(self, inner: torch.optim.Optimizer, parameters: Any) -> None:
        super().__init__(parameters, lr=0.0)
        self.inner = inner

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.inner.step()


def test_the_frames_of_an_optimizers_own_step_are_not_the_place() -> None:
    kept = Updates()
    net = model()
    with loopkit.watch(autoload=False, plugins=[kept]):
        optimizer = Doubled(adamw(net), net.parameters())
        for x, y in batches(2):
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()
    place = next(event.site.place for event, _ in kept.seen[0].steps() if event.site)
    assert "test_the_frames" in place.function


# -- batches ---------------------------------------------------------------------------------------------


def test_batches_are_events_and_never_counted_twice() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for data in (loopkit.batches(list(batches(2))), loopkit.batches(loader(samples=8))):
            for x, y in loopkit.batches(data):
                optimizer.zero_grad()
                loss_of(net(x), y).backward()
                optimizer.step()

    assert events(loop) == " ".join(["D z f b s< s>"] * 4)
    assert len(loopkit.batches([1, 2, 3])) == 3
    assert list(loopkit.batches(iter([1, 2]))) == [1, 2]
    with pytest.raises(TypeError, match="has no length"):
        len(loopkit.batches(iter([1])))


# -- inputs ----------------------------------------------------------------------------------------------


def test_an_input_is_another_one_when_the_object_or_what_is_in_it_changes() -> None:
    seen = Inputs()
    x = torch.zeros(2)

    def numbers() -> Iterator[int]:
        for args, kwargs in [((x,), {}), ((x,), {}), ((), {"ids": x}), (({"ids": x},), {}), (([x],), {})]:
            seen.saw(args, kwargs)
            yield seen.number
        x.add_(1)
        seen.saw((x,), {})
        yield seen.number
        seen.saw((torch.zeros(2),), {})
        yield seen.number
        seen.saw((), {})
        yield seen.number

    assert list(numbers()) == [1, 1, 1, 1, 1, 2, 3, 4]
    seen.saw((torch.zeros(2, requires_grad=True),), {})
    assert seen.derived


# -- habits ----------------------------------------------------------------------------------------------


@given(st.lists(st.booleans(), min_size=1, max_size=200), st.sampled_from([2, 8]))
def test_a_habit_is_never_seen_where_less_than_half_are_faulty(faults: list[bool], at_least: int) -> None:
    habit = Habit()
    count = 0
    for n, faulty in enumerate(faults, 1):
        count += faulty
        told = faulty and count & (count - 1) == 0
        if told and habit.is_one("x", 1, count, n, at_least=at_least):
            recent = faults[:n]
            # Of all so far, or of those since the last time it was told.
            assert count * 4 >= 3 * n or sum(recent[-2 * count :]) * 2 >= min(len(recent), count)
            assert count >= at_least


def test_a_habit_that_begins_late_is_seen() -> None:
    habit = Habit()
    found = [n for n in range(500, 520) if (c := n - 499) & (c - 1) == 0 and habit.is_one("x", 1, c, n)]
    assert found == [503, 507, 515]


# -- plugins ---------------------------------------------------------------------------------------------


def test_installed_plugins_are_found_without_importing_them() -> None:
    names = {offer.name: offer for offer in installed()}
    assert {"missing-zero-grad", "console"} <= set(names)
    assert names["missing-zero-grad"].entry == "order"
    assert names["missing-zero-grad"].distribution.startswith("torch-loopkit")


def test_a_plugin_may_be_a_class_an_object_a_string_or_a_tuple_of_strings() -> None:
    class One:
        @hookimpl
        def run_started(self) -> Any:
            return finding(rule="one")

    target = "loopkit_plugins.checks.order:CHECKS"
    with loopkit.watch(autoload=False, plugins=[One, One(), target]) as run:
        pass
    assert [each.count for each in run.findings] == [2]
    names = [name for name, _ in run.manager.plugins()]
    assert names[:2] == ["one", "one-2"]
    assert "zero-grad-before-step" in names


def test_each_run_has_plugins_of_its_own() -> None:
    runs = []
    for _ in range(2):
        with loopkit.watch() as run:
            runs.append(dict(run.manager.plugins()))
    assert runs[0].keys() == runs[1].keys()
    assert all(runs[0][name] is not runs[1][name] for name in runs[0])


def test_a_hook_wrapper_is_refused_with_a_reason() -> None:
    class Wraps:
        @hookimpl(wrapper=True)
        def after_step(self) -> Any:
            return (yield)

    manager = Manager()
    assert not manager.add(Wraps)
    assert "hook wrapper" in manager.failures[0].error


def test_an_instrument_is_made_once_a_run() -> None:
    class Mine:
        pass

    with loopkit.watch(autoload=False) as run:
        assert run.instrument(Mine) is run.instrument(Mine)
        assert run.instrument(Ledger) is run.recorder.ledger


def test_report_folds_repeats_of_one_rule_place_and_subject() -> None:
    place = Place("x.py", 3)
    with loopkit.watch(autoload=False) as run:
        for subject in ("a", "a", "b"):
            run.report(finding(place=place, subject=subject))
    assert [(each.subject, each.count, each.step) for each in run.findings] == [("a", 2, 0), ("b", 1, 0)]


def test_the_nearest_name_is_suggested() -> None:
    assert did_you_mean("consle", ["console", "json"]) == "; did you mean 'console'?"
    assert did_you_mean("zzz", ["console", "json"]) == ""


def test_an_inline_comment_silences_one_rule_on_one_line(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("a\nb  # loopkit: ignore[my-rule, other] meant\nc  # loopkit: ignore[other]\n")
    at = [inline_reason(finding(place=Place(str(file), line))) for line in (1, 2, 3)]
    assert at == [None, "meant", None]
    assert inline_reason(finding()) is None


# -- ledger ----------------------------------------------------------------------------------------------


def test_parameters_added_late_are_judged_from_then_on() -> None:
    def loop() -> None:
        body, head = torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)
        optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
        for i, (x, y) in enumerate(batches(12)):
            if i == 4:
                optimizer.add_param_group({"params": list(body.parameters())})
            head.zero_grad()
            if i < 8:
                body.zero_grad()
            loss_of(head(body(x)), y).backward()
            optimizer.step()

    (found,) = find(loop)
    assert (found.rule, found.step) == ("missing-zero-grad", 9)
    assert "2 of 4 parameters" in found.seen


def test_parameters_shared_by_two_optimizers_are_judged_for_each() -> None:
    def loop() -> None:
        net = model()
        one, other = torch.optim.SGD(net.parameters(), lr=0.1), torch.optim.Adam(net.parameters())
        for x, y in loader():
            one.zero_grad()
            loss_of(net(x), y).backward()
            one.step()
            other.step()

    assert rules(loop) == ["param-in-two-optimizers"]


def test_an_optimizer_that_is_gone_is_forgotten() -> None:
    with loopkit.watch(autoload=False) as run:
        textbook(2)
        import gc

        gc.collect()
        assert run.instrument(Ledger).owners() == []
    assert "torch" in sys.modules


def test_a_backward_through_a_freed_graph_is_an_error_of_the_loop_and_not_of_the_reading() -> None:
    net = torch.nn.Linear(4, 2)
    optimizer = adamw(net)
    with loopkit.watch(skip=["console"]) as run:
        loss = 2 * torch.nn.functional.cross_entropy(net(torch.randn(3, 4)), torch.tensor([0, 1, 1]))
        loss.backward()
        with pytest.raises(RuntimeError, match="second time"):
            loss.backward()
        optimizer.step()
    assert run.recorder.losses.error is None
