"""unused-silence: found where a comment silences nothing, silent where that cannot be known."""

from __future__ import annotations

import runpy
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import loopkit
from loopkit import Confidence, Finding, Run, Severity, hookimpl
from tests.loops import adamw, batches, loss_of, model
from tests.watched import find, line_of

LOOP = """
from tests.loops import adamw, batches, loss_of, model
net = model()
optimizer = adamw(net)
for x, y in batches(4):
    optimizer.zero_grad()
    loss = loss_of(net(x), y)
    loss.backward()
    optimizer.step()
"""
BACKWARD = 8


def needs_no_silence() -> None:
    net = model()
    optimizer = adamw(net)
    for x, y in batches(4):
        optimizer.zero_grad()
        loss = loss_of(net(x), y)
        loss.backward()  # loopkit: ignore[missing-zero-grad] the sum is meant
        optimizer.step()


SNAPSHOTS = {"unused-silence": needs_no_silence}


def _told(folder: Path, text: str, **options: Any) -> list[Finding]:
    """What a script's comments are told; its other findings are left out."""
    script = folder / "train.py"
    script.write_text(text)
    found = find(lambda: runpy.run_path(str(script)), **options)
    return [finding for finding in found if finding.rule == "unused-silence"]


def _on_backward(comment: str) -> str:
    return LOOP.replace("loss.backward()", f"loss.backward()  # {comment}")


def test_found_at_the_comment_on_a_line_that_ran_and_had_nothing_to_silence() -> None:
    (finding,) = find(needs_no_silence)
    assert (finding.rule, finding.severity, finding.confidence) == ("unused-silence", Severity.INFO, Confidence.FACT)
    assert finding.place is not None
    assert finding.place.line == line_of(needs_no_silence, "loss.backward()")
    assert "missing-zero-grad, which found nothing on this line in 4 optimizer steps" in finding.seen


def test_found_for_a_name_that_no_check_has_with_the_nearest_that_one_has(tmp_path: Path) -> None:
    (finding,) = _told(tmp_path, _on_backward("loopkit: ignore[mising-zero-grad]"))
    assert finding.place is not None
    assert finding.place.line == BACKWARD
    assert "'mising-zero-grad', which no installed check has; did you mean 'missing-zero-grad'?" in finding.seen


def test_found_on_a_line_of_its_own(tmp_path: Path) -> None:
    text = LOOP.replace("    loss.backward()", "    # loopkit: ignore[missing-zero-grad] above\n    loss.backward()")
    (finding,) = _told(tmp_path, text.replace("    optimizer.zero_grad()\n", ""))
    assert "on a line that has no code" in finding.seen


def test_each_rule_of_a_comment_is_judged_by_itself(tmp_path: Path) -> None:
    text = _on_backward("loopkit: ignore[missing-zero-grad, zero-grad-before-step] meant")
    (finding,) = _told(tmp_path, text.replace("    optimizer.zero_grad()\n", ""))
    assert finding.subject == "zero-grad-before-step"
    assert {each.subject for each in _told(tmp_path, text)} == {"missing-zero-grad", "zero-grad-before-step"}


def test_found_beside_another_tools_comment(tmp_path: Path) -> None:
    (finding,) = _told(tmp_path, _on_backward("noqa: E501  # loopkit: ignore[missing-zero-grad]"))
    assert finding.subject == "missing-zero-grad"


def test_it_is_in_the_report_that_a_sink_writes(tmp_path: Path) -> None:
    at_the_end: list[str] = []

    class Sink:
        @hookimpl
        def run_finished(self, run: Run) -> None:
            at_the_end.extend(finding.rule for finding in run.findings)

    _told(tmp_path, _on_backward("loopkit: ignore[missing-zero-grad]"), plugins=[Sink()])
    assert at_the_end == ["unused-silence"]


USED = _on_backward("loopkit: ignore[missing-zero-grad] meant").replace("    optimizer.zero_grad()\n", "")
UNUSED = _on_backward("loopkit: ignore[missing-zero-grad]")


@pytest.mark.parametrize(
    "text",
    [
        LOOP,
        USED,
        LOOP + "\ntext = '''\n# loopkit: ignore[missing-zero-grad]\n'''\n",
        LOOP + "\ntext = 'x  # loopkit: ignore[nonsense]'\n",
        LOOP + "\n# loss.backward()  # loopkit: ignore[missing-zero-grad]\n",
        LOOP + "\nif len(batches.__name__) > 99:\n    loss.backward()  # loopkit: ignore[missing-zero-grad]\n",
        LOOP.replace("optimizer.step()", "optimizer.step()  # loopkit: ignore[]"),
        LOOP.replace("optimizer.step()", "optimizer.step()  # loopkit: ignore"),
        _on_backward("loopkit: ignore[unused-silence]"),
    ],
    ids=[
        "no comment",
        "used",
        "in a string of many lines",
        "in a string",
        "commented out",
        "did not run",
        "no rule",
        "no list",
        "itself",
    ],
)
def test_silent_on(tmp_path: Path, text: str) -> None:
    assert _told(tmp_path, text) == []


@pytest.mark.parametrize(
    "options",
    [
        {"ignore": ["missing-zero-grad"]},
        {"select": ["unused-silence"]},
        {"skip": ["console", "missing-zero-grad"]},
        {"skip": ["console", "order"]},
    ],
    ids=["ignored", "not selected", "not loaded", "family not loaded"],
)
def test_silent_on_a_rule_that_was_not_judged(tmp_path: Path, options: dict[str, Any]) -> None:
    (tmp_path / "train.py").write_text(UNUSED)
    with loopkit.watch(**{"skip": ["console"], **options}) as run:
        runpy.run_path(str(tmp_path / "train.py"))
    assert run.findings == []


def test_silent_on_a_rule_that_something_kept_from_being_checked(tmp_path: Path) -> None:
    for rule in ("missing-zero-grad", "*"):
        (tmp_path / "train.py").write_text(UNUSED)
        with loopkit.watch(skip=["console"]) as run:
            runpy.run_path(str(tmp_path / "train.py"))
            run.could_not_check(rule, "it is dark")
        assert run.findings == []


def test_silent_on_a_run_that_failed_or_was_stopped(tmp_path: Path) -> None:
    for error in (ValueError(), KeyboardInterrupt(), loopkit.StopTraining("enough")):
        (tmp_path / "train.py").write_text(UNUSED)
        with suppress(ValueError, KeyboardInterrupt):
            with loopkit.watch(skip=["console"]) as run:
                runpy.run_path(str(tmp_path / "train.py"))
                raise error
        assert run.findings == []


def test_silent_on_a_comment_that_silences_a_child_processs_finding() -> None:
    import os

    from tests.processes import loops

    with loopkit.watch(skip=["console"]) as run:
        pid = os.fork()
        if pid == 0:
            loops.silenced()
            os._exit(0)
        os.waitpid(pid, 0)
        loops.trains_well()
    assert run.findings == []
    assert [reason for _, reason in run.silenced] == ["a sum is meant"]
