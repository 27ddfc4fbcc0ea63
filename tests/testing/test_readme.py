"""The README's tests, copied from it: they pass and fail as it says."""

from __future__ import annotations

import re
from pathlib import Path

from tests.testing.suites import ROOT, pytest_on

README = (ROOT / "README.md").read_text(encoding="utf-8")

TRAIN = """
import torch

def train(max_steps, clear={clear}):
    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(max_steps):
        x = torch.randn(8, 4)
        if clear:
            optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x), x[:, :2])
        loss.backward()
        optimizer.step()
"""


def snippets(heading: str) -> list[str]:
    """The Python blocks of one section."""
    section = README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)


def test_the_three_line_test_passes_on_a_right_loop_and_fails_on_a_wrong_one(tmp_path: Path) -> None:
    snippet, _ = snippets("Test your training loop with pytest")
    code = [line for line in snippet.splitlines() if line and not line.startswith("#")]
    assert len(code) == 3
    done = pytest_on(tmp_path, snippet, files={"train.py": TRAIN.format(clear=True)})
    assert (done.code, list(done.cases)) == (0, ["test_training_loop"]), done.text
    done = pytest_on(tmp_path, snippet, files={"train.py": TRAIN.format(clear=False)})
    assert done.code == 1
    assert "train.py:12  error  missing-zero-grad  (proof, step 2)" in done.cases["test_training_loop"].text


def test_marker_and_fixture_do_what_is_said(tmp_path: Path) -> None:
    _, snippet = snippets("Test your training loop with pytest")
    done = pytest_on(tmp_path, snippet, files={"train.py": TRAIN.format(clear=True)})
    assert (done.code, len(done.cases)) == (0, 2), done.text


def test_the_tests_of_a_check_pass_beside_the_check_of_the_readme(tmp_path: Path) -> None:
    (check,) = [each for each in snippets("Write a check in ten minutes") if "class HugeWindow" in each]
    first, second = snippets("Test your plugin")
    files = {"my_checks.py": check, "test_second.py": second}
    done = pytest_on(tmp_path, first, files=files)
    assert (done.code, len(done.cases)) == (0, 4), done.text
    files["my_checks.py"] = check.replace("> 64", "> 1")
    done = pytest_on(tmp_path, first, files=files)
    failed = [name for name, case in done.cases.items() if case.outcome == "failure"]
    assert failed == ["test_silent_on_right_loops", "test_silent_on_a_recorded_run", "test_silent"], done.text


def test_every_public_name_of_testing_is_in_the_readme() -> None:
    import loopkit.testing

    section = README.partition("\n## Test your plugin\n")[2]
    for name in loopkit.testing.__all__:
        if name not in (
            "WatchedTest",
            "Stream",
            "Replay",
        ):  # what the fixture, `record` and a replayed check are given
            assert f"`{name}" in section, f"the README does not say what loopkit.testing.{name} is for"
