"""`loopkit trace`: what it prints where, its files, its exit codes, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from loopkit.cli import main
from tests.cli.command import LOOP, loopkit, python

MOVED = LOOP.replace("    optimizer.zero_grad()\n    net(", "    loss = net(").replace(
    ".mean().backward()", ".mean()\n    optimizer.zero_grad()\n    loss.backward()"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text(LOOP + "print('mine', net.weight.tolist())\n")
    (tmp_path / "moved.py").write_text(MOVED)
    return tmp_path


def test_the_picture_goes_to_stderr_and_the_script_is_as_without(folder: Path) -> None:
    done = loopkit("trace", "train.py", cwd=folder)
    assert done.code == 0
    assert done.out == python("train.py", cwd=folder).out
    assert "  zero_grad → forward → backward → step\n    all 4 updates" in done.err
    assert "backward        train.py:9" in done.err
    assert "\x1b" not in done.err


def test_diff_shows_a_moved_zero_grad(folder: Path) -> None:
    for name in ("train", "moved"):
        done = loopkit("trace", "--format", "json", "--output", f"{name}.json", f"{name}.py", cwd=folder)
        assert done.code == 0
        assert "all 4 updates" in done.err  # the picture is shown all the same
    different = loopkit("trace", "--diff", "train.json", "moved.json", cwd=folder)
    assert different.code == 1
    assert "moved    zero_grad    first (train.py:8) → after forward (moved.py:9)" in different.out
    assert different.err == ""
    same = loopkit("trace", "--diff", "train.json", "train.json", cwd=folder)
    assert (same.code, same.out.splitlines()[-1]) == (0, "the same")


def test_diff_imports_no_torch(folder: Path) -> None:
    loopkit("trace", "--format", "json", "--output", "trace.json", "moved.py", cwd=folder)
    code = (
        "import sys\nfrom loopkit.cli import main\n"
        "assert main(['trace', '--diff', 'trace.json', 'trace.json']) == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = python("-c", code, cwd=folder)
    assert done.code == 0, done.err


def test_diff_as_json_into_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train", "moved"):
        loopkit("trace", "--format", "json", "--output", f"{name}.json", f"{name}.py", cwd=folder)
    files = [str(folder / f"{name}.json") for name in ("train", "moved")]
    output = folder / "diff.json"
    assert main(["trace", "--format", "json", "--output", str(output), "--diff", *files]) == 1
    values = json.loads(output.read_text())
    assert values["kind"] == "loopkit-trace-diff"
    assert values["different"] is True
    assert capsys.readouterr().out.endswith("\ndifferent\n")


def test_json_without_a_file_is_all_that_stderr_gets(folder: Path) -> None:
    done = loopkit("trace", "--format", "json", "moved.py", cwd=folder)
    values = json.loads(done.err)
    assert (values["schema"], values["kind"], values["updates"]) == (1, "loopkit-trace", 4)
    assert {event["event"]: event["place"]["line"] for event in values["events"]} == {
        "forward": 8,
        "zero_grad": 9,
        "backward": 10,
        "step": 11,
    }


def test_max_steps_and_a_text_file(folder: Path) -> None:
    done = loopkit("trace", "--max-steps", "2", "--output", "picture.txt", "train.py", cwd=folder)
    assert done.code == 0
    assert "  all 2 updates" in done.err
    assert "  all 2 updates" in (folder / "picture.txt").read_text()


def test_a_script_that_fails_keeps_its_code_and_its_traceback(folder: Path) -> None:
    (folder / "fails.py").write_text(LOOP + "raise ValueError('mine')\n")
    done = loopkit("trace", "fails.py", cwd=folder)
    assert done.code == 1
    assert "ValueError: mine" in done.err
    assert "all 4 updates" in done.err


def test_a_terminal_that_knows_no_arrows(folder: Path) -> None:
    done = loopkit("trace", "train.py", cwd=folder, PYTHONIOENCODING="ascii")
    assert "zero_grad > forward > backward > step" in done.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("not json", "it is not JSON"),
        ("[]", "is no trace"),
        ('{"schema": 1, "steps": 3, "findings": []}', "is no trace"),
        ('{"schema": 2, "kind": "loopkit-trace", "loopkit": "9.0"}', "schema 2 (loopkit 9.0)"),
        ('{"schema": 1, "kind": "loopkit-trace"}', "is a broken trace"),
    ],
)
def test_files_that_are_no_traces(
    text: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "trace.json"
    if text is not None:
        file.write_text(text)
    assert main(["trace", "--diff", str(file), str(file)]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trace"], "name the script to trace"),
        (["trace", "--diff", "a", "b", "train.py"], "leave SCRIPT out"),
        (["trace", "nowhere.py"], "cannot open"),
    ],
)
def test_wrong_usage(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


def test_a_script_that_trains_nothing(folder: Path) -> None:
    (folder / "nothing.py").write_text("print('mine')\n")
    done = loopkit("trace", "nothing.py", cwd=folder)
    assert (done.code, done.out) == (0, "mine\n")
    assert "no optimizer step was executed" in done.err
    assert "times" not in done.err


def test_a_module(folder: Path) -> None:
    done = loopkit("trace", "-m", "moved", cwd=folder)
    assert "  forward → zero_grad → backward → step\n    all 4 updates" in done.err


@pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colour_on_a_terminal_alone(folder: Path, variables: dict[str, str], coloured: bool) -> None:
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    names = ("LOOPKIT_RAISE", "COLUMNS", "NO_COLOR")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    command = [sys.executable, "-m", "loopkit", "trace", "train.py"]
    process = subprocess.Popen(command, cwd=folder, stderr=theirs, stdout=subprocess.DEVNULL, env=kept | variables)
    os.close(theirs)
    said = b""
    while piece := _read(ours):
        said += piece
    assert process.wait(timeout=120) == 0
    assert "all 4 updates" in said.decode()
    assert ("\x1b[1m" in said.decode()) is coloured


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux: the other end is closed
        return b""
