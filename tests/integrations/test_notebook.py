"""`%%loopkit` in a notebook's shell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import loopkit
from tests.cli.command import BUG, LOOP

LINE = "    net(torch.ones(2, 3)).mean().backward()"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def shell() -> Iterator[Any]:
    interactive = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell
    made = interactive.instance()
    made.run_line_magic("load_ext", "loopkit")
    yield made
    made.run_line_magic("unload_ext", "loopkit")
    assert "loopkit" not in made.magics_manager.magics["cell"]
    interactive.clear_instance()


def test_a_bug_is_found_once_at_its_line_in_the_cell(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    shell.run_cell("%%loopkit\n" + BUG)
    said = capsys.readouterr().err
    assert said.count("missing-zero-grad  (proof") == 1
    assert f":{BUG.splitlines().index(LINE) + 2}  error  missing-zero-grad" in said  # under the magic's own line
    assert loopkit.current_run() is None


def test_a_correct_cell_is_silent_and_keeps_its_names(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    shell.run_cell("%%loopkit\n" + LOOP)
    assert "4 optimizer steps watched: nothing found" in capsys.readouterr().err
    watched = shell.user_ns["net"].weight.clone()
    shell.run_cell(LOOP)
    assert torch.equal(shell.user_ns["net"].weight, watched)


def test_a_rule_can_be_ignored(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    shell.run_cell("%%loopkit --ignore missing-zero-grad\n" + BUG)
    assert "nothing found" in capsys.readouterr().err


def test_an_exception_is_shown_once_and_closes_the_watch(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    shell.run_cell("%%loopkit\n" + LOOP + "raise ValueError('mine')\n")
    said = capsys.readouterr()
    assert re.sub(r"\x1b\[[\d;]*m", "", said.out).count("ValueError: mine") == 1
    assert "4 optimizer steps watched" in said.err
    assert loopkit.current_run() is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--ignore mising-zero-grad", "did you mean 'missing-zero-grad'"),
        ("--quiet", "it takes --select RULES"),
        ("--ignore 'x", "it takes --select RULES"),
    ],
)
def test_wrong_usage_runs_nothing(shell: Any, line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    shell.run_cell(f"%%loopkit {line}\nran = True\n")
    assert said in capsys.readouterr().err
    assert "ran" not in shell.user_ns


def test_inside_an_open_watch_it_joins(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with loopkit.watch() as run:
        shell.run_cell("%%loopkit\n" + BUG)
        assert loopkit.current_run() is run
    assert capsys.readouterr().err.count("optimizer steps watched") == 1


def test_another_magic_may_follow(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    shell.run_cell("%%loopkit\n%%capture shown\nprint('mine')\n" + LOOP)
    assert "4 optimizer steps watched: nothing found" in shell.user_ns["shown"].stderr + capsys.readouterr().err
    assert shell.user_ns["shown"].stdout == "mine\n"
