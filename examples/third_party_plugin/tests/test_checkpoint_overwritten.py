"""The check: a loop that has the mistake, loops that do not."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from house_rules.checkpoint_overwritten import CheckpointOverwritten

import loopkit
from loopkit import Finding


def found(target: Callable[[int], Any]) -> list[Finding]:
    """The findings of a loop that saves after each of two epochs."""
    net = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with loopkit.watch(plugins=[CheckpointOverwritten], autoload=False) as run:
        for epoch in range(2):
            optimizer.zero_grad()
            net(torch.ones(1, 2)).sum().backward()
            optimizer.step()
            torch.save(net.state_dict(), target(epoch))
    assert not run.failures
    return run.findings


def test_a_file_that_is_written_twice_is_found(tmp_path: Path) -> None:
    (finding,) = found(lambda epoch: tmp_path / "model.pt")
    assert finding.rule == "checkpoint-overwritten"
    assert finding.step == 2
    assert finding.place is not None
    assert "torch.save(" in Path(finding.place.file).read_text().splitlines()[finding.place.line - 1]


def test_a_name_for_each_epoch_is_left_alone(tmp_path: Path) -> None:
    assert found(lambda epoch: tmp_path / f"model-{epoch}.pt") == []


def test_a_buffer_is_left_alone() -> None:
    assert found(lambda epoch: io.BytesIO()) == []


def test_another_run_begins_anew(tmp_path: Path) -> None:
    assert len(found(lambda epoch: tmp_path / "model.pt")) == 1
    assert len(found(lambda epoch: tmp_path / "model.pt")) == 1
