"""Running the command as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

LOOP = """
import torch
torch.set_num_threads(1)
torch.manual_seed(0)
net = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for _ in range(4):
    optimizer.zero_grad()
    net(torch.ones(2, 3)).mean().backward()
    optimizer.step()
"""
"""A correct loop."""

BUG = LOOP.replace("    optimizer.zero_grad()\n", "")
"""The same, but it never clears its gradients: line 8 adds to what line 9 used."""


@dataclass
class Result:
    code: int
    out: str
    err: str


def environment(**extra: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("LOOPKIT_RAISE", "COLUMNS")}
    return kept | {"OMP_NUM_THREADS": "1"} | extra


def loopkit(*arguments: str, cwd: Path, stdin: str = "", **extra: str) -> Result:
    """`loopkit ARGUMENTS` in the folder `cwd`."""
    done = subprocess.run(
        [sys.executable, "-m", "loopkit", *arguments],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(**extra),
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def python(*arguments: str, cwd: Path, stdin: str = "") -> Result:
    """`python ARGUMENTS` in the folder `cwd`, for comparison."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(),
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)
