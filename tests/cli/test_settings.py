"""`[tool.loopkit]` in pyproject.toml, and baselines: what a project says once instead of each time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.command import BUG, loopkit


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "bad.py").write_text(BUG)
    return tmp_path


def settings(folder: Path, text: str) -> None:
    (folder / "pyproject.toml").write_text(f"[tool.loopkit]\n{text}\n")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", 1),
        ('ignore = ["missing-zero-grad"]', 0),
        ('select = ["scheduler-before-optimizer"]', 0),
        ('fail-on = "never"', 0),
        ('no-plugins = ["order"]', 0),
        ('[tool.loopkit.per-file-ignores]\n"jobs/*.py" = ["missing-zero-grad"]', 0),
        ('[tool.loopkit.per-file-ignores]\n"other/*.py" = ["missing-zero-grad"]', 1),
    ],
)
def test_the_nearest_pyproject_above_the_script_counts(folder: Path, text: str, code: int) -> None:
    settings(folder, text)
    assert loopkit("run", "jobs/bad.py", cwd=folder).code == code


def test_the_command_line_goes_before_the_file(folder: Path) -> None:
    settings(folder, 'select = ["scheduler-before-optimizer"]\nfail-on = "never"')
    done = loopkit("run", "--select", "missing-zero-grad", "--fail-on", "error", "jobs/bad.py", cwd=folder)
    assert done.code == 1
    assert loopkit("run", "--isolated", "jobs/bad.py", cwd=folder).code == 1
    (folder / "other.toml").write_text('[tool.loopkit]\nignore = ["missing-zero-grad"]\n')
    assert loopkit("run", "--config", "other.toml", "jobs/bad.py", cwd=folder).code == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("selct = []", "unknown key 'selct' in [tool.loopkit]; did you mean 'select'?"),
        ('ignore = ["missing-zero-gard"]', "did you mean 'missing-zero-grad'?"),
        ('ignore = "missing-zero-grad"', "ignore must be a list of words"),
        ('fail-on = "info"', "fail-on is one of error, warning, never"),
        ("[tool.loopkit.thresholds]\nloss-unstable = 3", "thresholds of loss-unstable must be a table of numbers"),
        ("[tool.loopkit.thresholds.train-val-gap]\nrize = 3", "no threshold 'rize'; did you mean 'rise'?"),
        ("select = [", "is no TOML"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_the_script_runs(folder: Path, text: str, said: str) -> None:
    settings(folder, text)
    (folder / "jobs" / "bad.py").write_text("open('ran', 'w')\n" + BUG)
    done = loopkit("run", "jobs/bad.py", cwd=folder)
    assert done.code == 2
    assert said in done.err
    assert not (folder / "ran").exists()


def test_a_baseline_hides_what_is_known_until_the_line_changes(folder: Path) -> None:
    update = loopkit("run", "--baseline", "known.json", "--update-baseline", "jobs/bad.py", cwd=folder)
    assert update.code == 0
    assert "known.json now knows 1 finding" in update.err
    known = json.loads((folder / "known.json").read_text())
    assert [each["rule"] for each in known["findings"]] == ["missing-zero-grad"]
    assert known["findings"][0]["file"] == "jobs/bad.py"

    script = folder / "jobs" / "bad.py"
    script.write_text("# one more line\n" + BUG)  # the same finding, elsewhere in the file
    done = loopkit("run", "--baseline", "known.json", "jobs/bad.py", cwd=folder)
    assert done.code == 0
    assert "(in the baseline)" in done.err

    settings(folder, 'baseline = "known.json"')
    assert loopkit("run", "jobs/bad.py", cwd=folder / "jobs" / "..").code == 0
    script.write_text(BUG.replace(".backward()", ".backward(retain_graph=False)"))
    assert loopkit("run", "jobs/bad.py", cwd=folder).code == 1


def test_a_baseline_that_is_none_is_refused(folder: Path) -> None:
    done = loopkit("run", "--baseline", "known.json", "jobs/bad.py", cwd=folder)
    assert done.code == 2
    assert "`--update-baseline` writes it" in done.err
    (folder / "known.json").write_text("[]")
    done = loopkit("run", "--baseline", "known.json", "jobs/bad.py", cwd=folder)
    assert done.code == 2
    assert "no baseline of this version" in done.err
    done = loopkit("run", "--update-baseline", "jobs/bad.py", cwd=folder)
    assert done.code == 2
    assert "--baseline FILE" in done.err
