"""Everything a script, an option or a plugin may do wrong: a clear line, the documented code, the script's result."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.command import BUG, LOOP, environment, loopkit, python


def write(folder: Path, text: str, name: str = "script.py") -> str:
    (folder / name).write_text(text)
    return name


# -- the script ------------------------------------------------------------------------------------------


def test_missing_script(tmp_path: Path) -> None:
    done = loopkit("run", "nowhere.py", cwd=tmp_path)
    assert done.code == 2
    assert done.err == "loopkit: cannot open 'nowhere.py': No such file or directory\n"


def test_unreadable_script(tmp_path: Path) -> None:
    (tmp_path / "folder.py").mkdir()
    done = loopkit("run", "folder.py", cwd=tmp_path)
    assert done.code == 2
    assert "holds no __main__.py" in done.err


def test_no_script_at_all(tmp_path: Path) -> None:
    done = loopkit("run", cwd=tmp_path)
    assert done.code == 2
    assert "loopkit run train.py" in done.err


def test_syntax_error(tmp_path: Path) -> None:
    name = write(tmp_path, "import torch\nfor x in:\n    pass\n")
    done, bare = loopkit("run", name, cwd=tmp_path), python(name, cwd=tmp_path)
    assert done.code == bare.code == 1
    assert "line 2" in done.err
    assert "SyntaxError" in done.err
    assert "loopkit/" not in done.err


def test_not_python(tmp_path: Path) -> None:
    (tmp_path / "data.py").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00\x00")
    done = loopkit("run", "data.py", cwd=tmp_path)
    assert done.code == python("data.py", cwd=tmp_path).code == 1
    assert "SyntaxError" in done.err or "ValueError" in done.err


@pytest.mark.parametrize(("ending", "code"), [("sys.exit(3)", 3), ("sys.exit()", 0), ("sys.exit('no luck')", 1)])
def test_the_scripts_own_exit_code(tmp_path: Path, ending: str, code: int) -> None:
    name = write(tmp_path, f"import sys\n{LOOP}{ending}\n")
    done = loopkit("run", name, cwd=tmp_path)
    assert done.code == code
    assert "4 optimizer steps watched" in done.err
    assert ("no luck" in done.err) == (code == 1)


def test_a_script_that_fails_keeps_its_code_although_something_was_found(tmp_path: Path) -> None:
    done = loopkit("run", write(tmp_path, f"import sys\n{BUG}sys.exit(3)\n"), cwd=tmp_path)
    assert done.code == 3
    assert "missing-zero-grad" in done.err


def test_a_script_that_raises_keeps_its_traceback(tmp_path: Path) -> None:
    text = f"{BUG}\ndef fail():\n    net(torch.ones(2, 7))\n\nfail()\n"
    name = write(tmp_path, text)
    done, bare = loopkit("run", name, cwd=tmp_path), python(name, cwd=tmp_path)
    assert done.code == bare.code == 1
    assert bare.err.strip() in done.err
    assert "loopkit/" not in done.err.replace(str(tmp_path), "")
    assert "missing-zero-grad" in done.err


def test_a_scripts_own_excepthook_is_used(tmp_path: Path) -> None:
    text = "import sys\nsys.excepthook = lambda *error: print('mine', error[0].__name__)\nraise KeyError('x')\n"
    done = loopkit("run", write(tmp_path, text), cwd=tmp_path)
    assert (done.code, done.out) == (1, "mine KeyError\n")


def test_os_exit_keeps_what_was_found(tmp_path: Path) -> None:
    name = write(tmp_path, f"import os\n{BUG}os._exit(5)\n")
    done = loopkit("run", "--format", "json", "--output", "out.json", name, cwd=tmp_path)
    assert done.code == 5
    assert "missing-zero-grad" in done.err
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["finished"] is False
    assert report["findings"][0]["rule"] == "missing-zero-grad"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_by_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    name = write(tmp_path, f"{BUG}\nimport time\nprint('ready', flush=True)\ntime.sleep(60)\n")
    with subprocess.Popen(
        [sys.executable, "-m", "loopkit", "run", "--format", "json", "--output", "out.json", name],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        # A shell that starts us in the background has SIGINT ignored, and so would the script have it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == -number  # as with python
    assert "missing-zero-grad" in err
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["findings"][0]["rule"] == "missing-zero-grad"
    assert report["finished"] is (number == signal.SIGINT)
    if number == signal.SIGINT:
        assert "KeyboardInterrupt" in err
        assert "4 optimizer steps watched" in err


def test_loader_workers(tmp_path: Path) -> None:
    text = """
import torch
from torch.utils.data import DataLoader, TensorDataset
if __name__ == "__main__":
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(16, 3))
    net = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for method in ("fork", "spawn"):
        for (x,) in DataLoader(data, batch_size=4, num_workers=2, multiprocessing_context=method):
            optimizer.zero_grad()
            net(x).mean().backward()
            optimizer.step()
    print(net.weight.sum().item())
"""
    name = write(tmp_path, text)
    done, bare = loopkit("run", name, cwd=tmp_path), python(name, cwd=tmp_path)
    assert (done.code, done.out) == (0, bare.out)
    assert done.err.count("watched: nothing found") == 1
    assert "batch → zero_grad → forward → backward → step  (8 times)" in done.err


def test_stdin(tmp_path: Path) -> None:
    name = write(tmp_path, "import sys\nprint(sys.stdin.read().upper())\n")
    assert loopkit("run", name, cwd=tmp_path, stdin="hello").out == "HELLO\n"


def test_no_training_loop(tmp_path: Path) -> None:
    done = loopkit("run", write(tmp_path, "print(1)\n"), cwd=tmp_path)
    assert (done.code, done.out) == (0, "1\n")
    assert "no optimizer step was seen" in done.err


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_closed_pipe(tmp_path: Path, stream: str) -> None:
    name = write(tmp_path, f"{BUG}\nimport sys\nopen('ran', 'w').close()\n")
    command = f"{sys.executable} -m loopkit run --fail-on never {name}"
    shell = f"({command}; echo $? > code) {'2>&1' if stream == 'stderr' else ''} | true"
    text = shell if stream == "stderr" else f"({command} ; echo $? > code) | true"
    subprocess.run(
        ["bash", "-c", text], cwd=tmp_path, env=environment(), capture_output=True, timeout=120, check=False
    )
    assert (tmp_path / "ran").exists()
    assert (tmp_path / "code").read_text() == "0\n"


def test_it_changes_directory(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    name = write(tmp_path, f"import os\nos.chdir('elsewhere')\n{BUG}")
    done = loopkit("run", "--format", "json", "--output", "out.json", name, cwd=tmp_path)
    assert done.code == 1
    assert "\nscript.py:10  error" in "\n" + done.err
    assert (tmp_path / "out.json").exists()


def test_argparse_main_guard_and_what_a_script_sees_of_itself(tmp_path: Path) -> None:
    text = """
import argparse, os, pickle, sys
class Thing: pass
parser = argparse.ArgumentParser()
parser.add_argument("--format"); parser.add_argument("-m"); parser.add_argument("rest", nargs="*")
if __name__ == "__main__":
    print(parser.parse_args(), sys.argv, __name__, __file__, __spec__, __package__, sys.path[0])
    print(sys.modules["__main__"].Thing is Thing, pickle.loads(pickle.dumps(Thing())).__class__ is Thing)
    print(sorted(globals()), __builtins__)
"""
    name = write(tmp_path, text)
    words = [name, "--format", "json", "-m", "x", "a"]
    done, bare = loopkit("run", *words, cwd=tmp_path), python(*words, cwd=tmp_path)
    assert (done.code, done.out) == (bare.code, bare.out)


def test_help_of_the_script_is_the_scripts(tmp_path: Path) -> None:
    name = write(tmp_path, "import argparse\nargparse.ArgumentParser(description='mine').parse_args()\n")
    done = loopkit("run", name, "--help", cwd=tmp_path)
    assert (done.code, "mine" in done.out) == (0, True)


def test_relative_imports_under_m(tmp_path: Path) -> None:
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "part.py").write_text("VALUE = 7\n")
    (package / "train.py").write_text(
        f"from .part import VALUE\nimport sys\nprint(VALUE, __package__, __spec__.name, sys.argv[1:])\n{BUG}"
    )
    (package / "__main__.py").write_text("from . import train\n")
    done = loopkit("run", "-m", "mine.train", "--lr", "1", cwd=tmp_path)
    assert (done.code, done.out) == (1, python("-m", "mine.train", "--lr", "1", cwd=tmp_path).out)
    assert "mine/train.py:11  error" in done.err
    assert loopkit("run", "-m", "mine", cwd=tmp_path).out == python("-m", "mine", cwd=tmp_path).out


def test_missing_module(tmp_path: Path) -> None:
    done = loopkit("run", "-m", "no.such.module", cwd=tmp_path)
    assert done.code == 2
    assert "cannot run module 'no.such.module'" in done.err


# -- options ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--select", "mising-zero-grad"], "unknown rule 'mising-zero-grad'; did you mean 'missing-zero-grad'?"),
        (["--ignore", "x"], "unknown rule 'x'"),
        (["--no-plugin", "consle"], "unknown plugin 'consle'; did you mean 'console'?"),
        (["--format", "jsn"], "unknown format 'jsn'; did you mean 'json'?"),
        (["--plugin", "nowhere:Thing"], "no module named 'nowhere'"),
        (["--plugin", "nowhere"], "give it as MODULE:NAME"),
        (["--plugin", "good:Chek"], "good has no 'Chek'; did you mean 'Check'?"),
        (["--max-steps", "0"], "takes a number of 1 or more"),
        (["--output", "no/such/folder/out.json"], "cannot write --output"),
    ],
)
def test_wrong_options(tmp_path: Path, options: list[str], says: str) -> None:
    write(tmp_path, "class Check: pass\n", "good.py")
    name = write(tmp_path, "open('ran', 'w').close()\n")
    done = loopkit("run", *options, name, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.code == 2
    assert says in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "ran").exists()  # found before the script runs


def test_unwritable_output(tmp_path: Path) -> None:
    (tmp_path / "out.json").mkdir()
    done = loopkit("run", "--output", "out.json", write(tmp_path, LOOP), cwd=tmp_path)
    assert done.code == 2
    assert "cannot write --output" in done.err


# -- plugins ---------------------------------------------------------------------------------------------

GOOD = """
from loopkit import hookimpl
class Good:
    @hookimpl
    def run_finished(self, run):
        print("good plugin heard", run.steps)
"""


@pytest.mark.parametrize(
    ("plugin", "when", "code"),
    [
        ("raise RuntimeError('at import')", "import", 2),
        ("class Bad:\n    def __init__(self): raise RuntimeError('at construction')", "construction", 2),
        (
            "from loopkit import hookimpl\nclass Bad:\n    @hookimpl\n    def after_step(self): 1 / 0",
            "after_step",
            1,
        ),
        (
            "from loopkit import hookimpl\nclass Bad:\n    @hookimpl\n    def after_stp(self): pass",
            "there is no hook 'after_stp'; did you mean 'after_step'?",
            2,
        ),
        ("class Bad: pass", "it has no method marked @loopkit.hookimpl", 2),
        (
            "from loopkit import hookimpl\nclass Bad:\n    @hookimpl\n    def after_step(self, optimiser): pass",
            "optimiser",
            2,
        ),
    ],
)
def test_a_broken_plugin_is_named_and_the_rest_goes_on(tmp_path: Path, plugin: str, when: str, code: int) -> None:
    write(tmp_path, plugin, "bad.py")
    write(tmp_path, GOOD, "good.py")
    done = loopkit(
        "run", "--plugin", "bad:Bad", "--plugin", "good:Good", write(tmp_path, BUG), cwd=tmp_path,
        PYTHONPATH=str(tmp_path),
    )  # fmt: skip
    assert done.code == code
    assert "plugin bad failed" in done.err
    assert when in done.err
    assert "Traceback" not in done.err
    assert done.out == "good plugin heard 4\n"
    assert "missing-zero-grad" in done.err


def test_killed_by_sigkill_the_json_is_whole(tmp_path: Path) -> None:
    name = write(tmp_path, f"{BUG.replace('range(4)', 'range(10**9)')}")
    with subprocess.Popen(
        [sys.executable, "-m", "loopkit", "run", "--format", "json", "--output", "out.json", name],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        assert process.stderr is not None
        assert "missing-zero-grad" in process.stderr.readline()
        time.sleep(0.2)
        os.kill(process.pid, signal.SIGKILL)
    assert json.loads((tmp_path / "out.json").read_text())["findings"][0]["line"] == 8
