"""What a test says of findings: it holds, or the message says what was found instead."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch

import loopkit
from loopkit import Finding, PluginError, StopTraining, hookimpl
from loopkit.testing import WrittenLoop, assert_finds, assert_silent, assert_torch_untouched, watch_loop
from loopkit.watching import apart
from tests.loops import adamw, batches, loss_of, model, textbook
from tests.watched import line_of


def never_clears() -> None:
    net = model()
    optimizer = adamw(net)
    for x, y in batches():
        loss_of(net(x), y).backward()
        optimizer.step()


def sums_two_losses() -> None:
    net = model()
    optimizer = adamw(net)
    for x, y in batches():
        loss_of(net(x), y).backward()  # one
        loss_of(net(x), y).backward()  # two
        optimizer.step()


def test_the_finding_that_holds_is_given_back() -> None:
    finding = assert_finds(never_clears, "missing-zero-grad", line_of=".backward()")
    assert finding.place is not None
    assert finding.place.line == line_of(never_clears, ".backward()")
    assert assert_finds([finding], "missing-zero-grad") is finding


def test_a_rule_that_was_not_found_is_missed_with_what_was() -> None:
    where = rf"test_assertions\.py:{line_of(never_clears, '.backward()')}"
    with pytest.raises(
        AssertionError, match=rf"accum-scale-wrong was not found; found:\n .*{where}  error  missing-zero"
    ):
        assert_finds(never_clears, "accum-scale-wrong")
    with pytest.raises(AssertionError, match="missing-zero-grad was not found; nothing was found"):
        assert_finds(textbook, "missing-zero-grad")
    with pytest.raises(AssertionError, match="no installed check has that rule; did you mean 'missing-zero-grad'"):
        assert_finds([], "missing-zerograd")


def test_another_line_is_named_with_its_text() -> None:
    at, step = line_of(never_clears, ".backward()"), line_of(never_clears, "optimizer.step()")
    with pytest.raises(AssertionError) as caught:
        assert_finds(never_clears, "missing-zero-grad", line_of="optimizer.step()")
    assert f"test_assertions.py:{at} is `loss_of(net(x), y).backward()`" in str(caught.value)
    assert f"the text stands in line {step}" in str(caught.value)


def test_text_that_stands_in_two_lines_of_the_function_names_neither() -> None:
    lines = [line_of(sums_two_losses, f"# {name}") for name in ("one", "two")]
    with pytest.raises(AssertionError, match=rf"stands in lines {lines[0]}, {lines[1]}"):
        assert_finds(sums_two_losses, "missing-zero-grad", line_of=".backward()")
    assert_finds(sums_two_losses, "missing-zero-grad", line_of=".backward()  # one")


def test_a_finding_without_a_line_is_at_no_line() -> None:
    nowhere = Finding("mine", loopkit.Severity.INFO, loopkit.Confidence.FACT, "x", "", "")
    assert_finds([nowhere], "mine")
    with pytest.raises(AssertionError, match="names no line"):
        assert_finds([nowhere], "mine", line_of="x")


def test_silence_holds_where_nothing_is_found_or_nothing_of_the_rule() -> None:
    assert_silent(textbook)
    assert_silent(never_clears, "accum-scale-wrong")
    assert_silent([])
    with pytest.raises(AssertionError, match=r"expected nothing, but found:\n .* missing-zero-grad: backward added"):
        assert_silent(never_clears)
    with pytest.raises(AssertionError, match="expected no missing-zero-grad, but found"):
        assert_silent(never_clears, "missing-zero-grad")


def test_silence_about_a_function_in_which_nothing_happens_is_no_silence() -> None:
    with pytest.raises(AssertionError, match="idle did nothing that is watched"):
        assert_silent(idle)


def idle() -> None:
    adamw(model())


class Fails:
    @hookimpl
    def after_step(self) -> None:
        raise ZeroDivisionError("mine")


class Stops:
    @hookimpl
    def after_step(self) -> None:
        raise StopTraining("enough")


def test_a_plugin_that_raises_does_not_go_unseen() -> None:
    with pytest.raises(PluginError, match=r"fails failed \(after_step\): ZeroDivisionError: mine"):
        watch_loop(textbook, plugins=[Fails], autoload=False)
    assert watch_loop(textbook, plugins=[Stops], autoload=False) == []


def test_options_are_those_of_a_watch(capsys: pytest.CaptureFixture[str]) -> None:
    assert watch_loop(never_clears, ignore=["missing-zero-grad"]) == []
    assert watch_loop(never_clears, select=["accum-scale-wrong"]) == []
    assert watch_loop(never_clears, autoload=False) == []
    assert watch_loop(never_clears, skip=["order"]) == []
    assert capsys.readouterr().err == ""


class Odd:
    """Found when the run ends."""

    rule = "odd"

    @hookimpl
    def run_finished(self) -> Finding:
        return Finding(self.rule, loopkit.Severity.INFO, loopkit.Confidence.FACT, "odd", "", "")


def test_inside_a_watch_the_run_is_its_own_and_the_outer_one_goes_on() -> None:
    with loopkit.watch(skip=["console"]) as run:
        textbook(2)
        assert [finding.rule for finding in watch_loop(never_clears, plugins=[Odd])] == ["missing-zero-grad", "odd"]
        assert loopkit.current_run() is run
        assert run.steps == 2
        textbook(3)
    assert run.steps == 5
    assert run.findings == []


def test_a_watch_left_open_apart_does_not_hear_what_comes_after() -> None:
    with loopkit.watch(autoload=False) as run:
        with apart():
            watch = loopkit.watch(autoload=False)
            left = watch.__enter__()
            textbook(2)
        textbook(3)
        watch.__exit__(None, None, None)
    assert (run.steps, left.steps) == (3, 2)


def test_a_loop_that_raises_inside_a_watch_leaves_the_outer_one_open() -> None:
    with loopkit.watch(skip=["console"]) as run:
        with pytest.raises(IndexError):
            watch_loop(lambda: [].pop())
        textbook(2)
    assert run.steps == 2


def test_torch_that_was_touched_is_named_and_an_exception_passes() -> None:
    before = torch.nn.functional.mse_loss
    with pytest.raises(AssertionError, match=r"torch is not as it was: torch\.nn\.functional\.mse_loss"):
        with assert_torch_untouched():
            torch.nn.functional.mse_loss = lambda *given: before(*given)
    torch.nn.functional.mse_loss = before
    with pytest.raises(KeyError), assert_torch_untouched():
        raise KeyError
    watch = loopkit.watch(autoload=False)
    with pytest.raises(AssertionError, match="run"), assert_torch_untouched():
        watch.__enter__()
    watch.__exit__(None, None, None)
    with assert_torch_untouched():
        watch_loop(textbook)


def test_a_written_loop_puts_the_random_state_back() -> None:
    before = torch.get_rng_state()
    WrittenLoop()()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"fault": "missing-zerograd"}, "did you mean 'missing-zero-grad'"),
        ({"fault": "accum-scale-wrong"}, "window of 2 or more"),
    ],
)
def test_a_loop_that_cannot_be_written_is_refused(wrong: dict[str, str], said: str) -> None:
    with pytest.raises(loopkit.UsageError, match=said):
        WrittenLoop(**wrong)  # type: ignore[arg-type]


def test_a_written_loop_is_the_textbooks() -> None:
    body = WrittenLoop().source.partition("for epoch")[2]
    calls = re.findall(r"(zero_grad|mse_loss|backward|step)\(", body)
    assert calls == ["zero_grad", "mse_loss", "backward", "step"]


def test_importing_it_imports_neither_torch_nor_hypothesis() -> None:
    code = (
        "import sys, loopkit.testing\nfrom loopkit.testing import assert_finds, Stream\n"
        "assert not {'torch', 'hypothesis', 'pytest'} & set(sys.modules)\n"
        "for name in loopkit.testing.__all__: getattr(loopkit.testing, name)\n"
        "assert not {'hypothesis', 'pytest'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
