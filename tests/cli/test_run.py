"""`loopkit run`: what it prints and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loopkit import Finding
from tests.cli.command import BUG, LOOP, loopkit


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "good.py").write_text(LOOP)
    (tmp_path / "bad.py").write_text(BUG)
    return tmp_path


def test_a_correct_loop_ends_with_0_and_its_row(folder: Path) -> None:
    done = loopkit("run", "good.py", cwd=folder)
    assert done.code == 0
    assert done.out == ""
    assert "4 optimizer steps watched: nothing found" in done.err
    assert "zero_grad → forward → backward → step  (4 times)" in done.err
    assert "cost" in done.err


def test_a_bug_ends_with_1_and_its_line(folder: Path) -> None:
    done = loopkit("run", "bad.py", cwd=folder)
    assert done.code == 1
    assert "bad.py:8  error  missing-zero-grad  (proof, step 2)" in done.err
    assert "the step at bad.py:9 had already used" in done.err
    assert "bad.py:8  missing-zero-grad  in 3 updates" in done.err


def test_json_goes_to_a_file_and_text_to_stderr(folder: Path) -> None:
    done = loopkit("run", "--format", "json", "--output", "out.json", "bad.py", cwd=folder)
    assert done.code == 1
    assert "missing-zero-grad" in done.err
    report = json.loads((folder / "out.json").read_text())
    assert {"schema", "loopkit", "finished", "steps", "overhead", "not_checked", "findings"} <= set(report)
    assert (report["schema"], report["finished"], report["steps"]) == (1, True, 4)
    (finding,) = report["findings"]
    assert (finding["rule"], finding["line"], finding["count"], finding["step"]) == ("missing-zero-grad", 8, 3, 2)
    assert finding["file"] == str(folder / "bad.py")
    assert Finding.from_dict(finding).to_dict() == finding


def test_json_without_a_file_is_all_that_stderr_gets(folder: Path) -> None:
    done = loopkit("run", "--format", "json", "bad.py", cwd=folder)
    assert json.loads(done.err)["findings"][0]["rule"] == "missing-zero-grad"


def test_text_goes_to_a_file_too(folder: Path) -> None:
    done = loopkit("run", "--output", "out.txt", "bad.py", cwd=folder)
    assert "missing-zero-grad" in done.err
    assert "missing-zero-grad" in (folder / "out.txt").read_text()


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--fail-on", "never"], 0),
        (["--fail-on", "warning"], 1),
        (["--ignore", "missing-zero-grad"], 0),
        (["--select", "scheduler-before-optimizer"], 0),
        (["--select", "missing-zero-grad,scheduler-before-optimizer"], 1),
        (["--no-plugin", "missing-zero-grad"], 0),
        (["--no-plugin", "order"], 0),
    ],
)
def test_what_counts_can_be_chosen(folder: Path, options: list[str], code: int) -> None:
    assert loopkit("run", *options, "bad.py", cwd=folder).code == code


def test_a_silenced_finding_is_named_with_its_reason(folder: Path) -> None:
    assert "silenced     bad.py:8  missing-zero-grad  (ignored by name)" in (
        loopkit("run", "--ignore", "missing-zero-grad", "bad.py", cwd=folder).err
    )
    text = BUG.replace(".backward()", ".backward()  # loopkit: ignore[missing-zero-grad] a sum is meant")
    (folder / "meant.py").write_text(text)
    done = loopkit("run", "meant.py", cwd=folder)
    assert done.code == 0
    assert "silenced     meant.py:8  missing-zero-grad  (a sum is meant)" in done.err


def test_max_steps_stops_reports_and_exits(folder: Path) -> None:
    (folder / "long.py").write_text(LOOP.replace("range(4)", "range(10**9)") + "print('behind')\n")
    done = loopkit("run", "--max-steps", "3", "long.py", cwd=folder)
    assert done.code == 0
    assert "stopped: reached --max-steps 3" in done.err
    assert "3 optimizer steps watched" in done.err
    assert done.out == ""


def test_max_steps_is_not_swallowed_by_the_loops_own_except(folder: Path) -> None:
    text = LOOP.replace("range(4)", "range(10**9)").replace(
        "    optimizer.step()", "    try:\n        optimizer.step()\n    except Exception:\n        pass"
    )
    (folder / "long.py").write_text(text)
    assert loopkit("run", "--max-steps", "3", "long.py", cwd=folder).code == 0


def test_under_torchrun_the_exit_code_stays_the_scripts_own(folder: Path) -> None:
    done = loopkit("run", "bad.py", cwd=folder, TORCHELASTIC_RUN_ID="x", RANK="0")
    assert done.code == 0
    assert "missing-zero-grad  (proof, step 2, rank 0)" in done.err


def test_a_frameworks_line_stands_beside_the_users(folder: Path) -> None:
    (folder / "hf.py").write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from tests.frameworks.trainers import accelerate\n"
        "accelerate(bug='missing-zero-grad')\n"
    )
    done = loopkit("run", "--format", "json", "hf.py", cwd=folder)
    (finding,) = json.loads(done.err)["findings"]
    assert "accelerator.py" in finding["evidence"]["framework"]


def test_the_readmes_check_beside_a_script_works_as_it_stands(folder: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (folder / "my_checks.py").write_text("# my_checks.py" + readme.split("# my_checks.py")[1].split("```")[0])
    (folder / "window.py").write_text(LOOP.replace("    optimizer.step", "    if _ == 79: optimizer.step").replace(
        "range(4)", "range(80)").replace("    optimizer.zero_grad()\n", ""))  # fmt: skip
    done = loopkit("run", "--plugin", "my_checks:HugeWindow", "window.py", cwd=folder)
    assert done.code == 0
    assert "info  huge-window  (fact, step 1)" in done.err
    assert "80 backwards went into one step of SGD" in done.err
