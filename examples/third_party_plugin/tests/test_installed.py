"""The package as it is installed: loopkit finds both plugins, and its command uses them."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import torch
net = torch.nn.Linear(2, 1)
for epoch in range(2):
    torch.save(net.state_dict(), "model.pt")
"""


def loopkit(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """`loopkit ARGUMENTS`."""
    command = [sys.executable, "-m", "loopkit", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_loopkit_lists_it(tmp_path: Path) -> None:
    listed = json.loads(loopkit("plugins", "--format", "json", folder=tmp_path).stdout)
    (row,) = [row for row in listed if row["name"] == "checkpoint-overwritten"]
    assert (row["state"], row["distribution"], row["hooks"]) == ("on", "loopkit-house-rules", ["state_saved"])
    assert "The repair" in loopkit("explain", "checkpoint-overwritten", folder=tmp_path).stdout


def test_a_run_finds_and_a_report_is_a_table(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    done = loopkit("run", "--format", "csv", "--output", "found.csv", "train.py", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "train.py:5  warning  checkpoint-overwritten" in done.stderr
    (row,) = csv.DictReader((tmp_path / "found.csv").read_text().splitlines())
    assert (row["rule"], row["file"], row["line"]) == ("checkpoint-overwritten", "train.py", "5")
    done = loopkit("run", "--format", "json", "--output", "found.json", "train.py", folder=tmp_path)
    assert done.returncode == 0
    assert loopkit("report", "found.json", "--format", "csv", folder=tmp_path).stdout == (
        (tmp_path / "found.csv").read_text()
    )
