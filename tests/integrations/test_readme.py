"""The README's sections on tracing and on other trainers, as they stand."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import loopkit
from loopkit.trace.diff import Change, compare
from tests.cli.command import loopkit as command
from tests.frameworks.trainers import Net, Rows, hf_arguments, lightning_module
from tests.loops import adamw, loss_of, model
from tests.trace.test_diff import made
from tests.trace.traced import masked

ROOT = Path(__file__).parents[2]


def section(title: str) -> str:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return readme.split(f"\n## {title}\n")[1].split("\n## ")[0]


def snippet(word: str) -> str:
    """The one block of Python about `word`."""
    blocks = re.findall(r"```python\n(.*?)```", section("Inside other trainers"), flags=re.S)
    (found,) = [block for block in blocks if f"integrations.{word} " in block]
    return str(found)


def run(word: str, **names: Any) -> dict[str, Any]:
    exec(snippet(word), names)  # noqa: S102 - this is what is tested
    return names


def pairs() -> DataLoader[tuple[torch.Tensor, ...]]:
    features = torch.randn(16, 4)
    return DataLoader(TensorDataset(features, features[:, :2].clone()), batch_size=4)


def test_the_picture_is_what_is_drawn() -> None:
    pytest.importorskip("sklearn")
    shown = section("See what your loop does").split("```\n")[1]
    done = command("trace", "examples/digits.py", cwd=ROOT)
    assert masked(shown) == masked(done.err.lstrip("\n"))


def test_the_comparison_is_what_is_told(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    blocks = section("See what your loop does").split("```\n")
    commands = [line.split()[1:] for line in blocks[3].splitlines()]
    shutil.copy(ROOT / "examples" / "digits.py", tmp_path / "train.py")
    assert command(*commands[0], cwd=tmp_path).code == 0
    text = (tmp_path / "train.py").read_text(encoding="utf-8")
    clear, loss = "            optimizer.zero_grad()\n", "        loss = criterion("
    assert text.count(clear) == text.count(loss) == 1
    text = text.replace(clear, "").replace(loss, f"        optimizer.zero_grad()\n{loss}")
    (tmp_path / "train.py").write_text(text, encoding="utf-8")
    assert command(*commands[1], cwd=tmp_path).code == 0
    done = command(*commands[2], cwd=tmp_path)
    assert done.code == 1
    told = [line for line in done.out.splitlines() if not line.startswith("  also ")]
    assert told == blocks[5].splitlines()


def test_every_field_of_the_files_is_named() -> None:
    text = section("See what your loop does")
    trace = made(["forward", "backward", "step"])
    values = trace.to_dict()
    compared = json.loads(compare(trace, trace).to_json())
    change = {field.name for field in dataclasses.fields(Change)}
    for name in {*values, *values["rows"][0], *values["events"][0], *compared, *change} | {"at"}:
        assert f"`{name}`" in text, f"the README does not name the field {name!r} of a trace"


def test_hf_trainer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import Trainer

    arguments = hf_arguments(str(tmp_path))
    run("transformers", Trainer=Trainer, model=Net(), arguments=arguments, dataset=Rows())
    assert "4 optimizer steps watched: nothing found" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
def test_lightning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import lightning

    monkeypatch.chdir(tmp_path)
    run("lightning", lightning=lightning, module=lightning_module(manual=False), loader=pairs())
    assert "4 optimizer steps watched: nothing found" in capsys.readouterr().err


def test_ignite(capsys: pytest.CaptureFixture[str]) -> None:
    from ignite.engine import create_supervised_trainer

    net = model()
    run("ignite", engine=create_supervised_trainer(net, adamw(net), loss_of), loader=pairs())
    assert "4 optimizer steps watched: nothing found" in capsys.readouterr().err


def test_notebook(capsys: pytest.CaptureFixture[str]) -> None:
    interactive = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell
    shell = interactive.instance()
    cells = re.findall(r"^```\n(%.*?)^```$", section("Inside other trainers"), flags=re.S | re.M)
    assert len(cells) == 2
    shell.user_ns["train"] = lambda: print("trained")
    for cell in cells:
        assert shell.run_cell(cell).success
    interactive.clear_instance()
    said = capsys.readouterr()
    assert "trained" in said.out
    assert "0 optimizer steps watched" in said.err
    assert loopkit.current_run() is None
