"""The README's first snippets run as they stand. Those of the sections on plugins, pytest, traces and other trainers
are run where those are tested.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import loopkit
from tests import watched
from tests.loops import adamw, batches, loss_of, model

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
ELSEWHERE = (
    "Inside other trainers",
    "Test your training loop with pytest",
    "Write a check in ten minutes",
    "Test your plugin",
)


def sections() -> dict[str, list[str]]:
    """The Python blocks of each section that has any."""
    found = {}
    for section in README.split("\n## ")[1:]:
        title, _, body = section.partition("\n")
        if blocks := re.findall(r"```python\n(.*?)```", body, flags=re.DOTALL):
            found[title] = blocks
    return found


def test_every_snippet_is_run_somewhere() -> None:
    assert set(sections()) == {"Use it", "Train with it", *ELSEWHERE}


def _train(clear: bool) -> None:
    net = model()
    optimizer = adamw(net)
    for x, y in batches(4):
        if clear:
            optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()


def test_a_watch_around_a_training() -> None:
    watch, _ = sections()["Use it"]
    exec(watch, {"train": functools.partial(_train, clear=True)})  # noqa: S102
    with pytest.raises(AssertionError):
        exec(watch, {"train": functools.partial(_train, clear=False)})  # noqa: S102


def test_a_comment_silences(tmp_path: Path) -> None:
    _, line = sections()["Use it"]
    source = f"""
def train(net, optimizer, batches, loss_of):
    for x, y in batches:
        loss = loss_of(net(x), y)
        {line.strip()}
        optimizer.step()
"""
    file = tmp_path / "silent.py"
    file.write_text(source)
    names: dict[str, Any] = {}
    exec(compile(file.read_text(), str(file), "exec"), names)  # noqa: S102
    net = model()
    train: Callable[..., None] = names["train"]
    with loopkit.watch() as run:
        train(net, adamw(net), batches(4), loss_of)
    assert "missing-zero-grad" in [finding.rule for finding, _ in run.silenced]
    assert "missing-zero-grad" not in [finding.rule for finding in run.findings]


def test_a_loop_of_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (snippet,) = sections()["Train with it"]
    monkeypatch.chdir(tmp_path)
    x = torch.randn(64, 4)
    data = TensorDataset(x, x[:, :3].argmax(1))
    loader = functools.partial(DataLoader, data, batch_size=8)
    names = {"torch": torch, "model": nn.Linear(4, 3), "train_loader": loader(shuffle=True), "val_loader": loader()}
    exec(snippet.replace("epochs=20", "epochs=2"), names)  # noqa: S102
    assert names["history"]
    assert (tmp_path / "runs" / "here").exists()


def test_a_check_that_ships(tmp_path: Path) -> None:
    check, test = (block for block in sections()["Write a check in ten minutes"] if "window" in block)
    names: dict[str, Any] = {}
    exec(check, names)  # noqa: S102
    exec(test, names)  # noqa: S102
    # Its check is installed nowhere: it is handed over, and nothing else is asked.
    names["rules"] = functools.partial(watched.rules, plugins=[names["HugeWindow"]], autoload=False)
    names["test_found"]()
