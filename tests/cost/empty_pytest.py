"""What the pytest plugin costs a run that does not use it: pytest on one empty test, with and without the plugin.

Both have the same wheel unpacked beside the same pytest; only the plugin's entry differs. They run in turns, each in
a process of its own, with nothing else of this environment in reach: the less pytest has to do, the more shows.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

PAIRS = 20
LIMIT = 1.02
ROOT = Path(__file__).parents[2]
NEEDED = ("pytest", "pluggy", "iniconfig", "packaging", "pygments")


def main(machine: str) -> None:
    """Measure it and print one table, in Markdown."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [_base(folder / "base"), _unpacked(folder / "with"), _unpacked(folder / "without", plugin=False)]
        test = folder / "suite"
        test.mkdir()
        (test / "test_empty.py").write_text("def test_empty():\n    pass\n")
        (test / "pytest.ini").write_text("[pytest]\n")
        base, with_it, without = paths
        for installed in (with_it, without):  # caches are written, and the plugin is where it should be
            says = _pytest(test, base, installed, "--help").stdout
            assert ("--loopkit-fail-on" in says) is (installed == with_it)
            _seconds(test, base, installed)
        bare, added, ratios = [], [], []
        for pair in range(PAIRS):
            first, second = (with_it, without) if pair % 2 else (without, with_it)
            one, two = _seconds(test, base, first), _seconds(test, base, second)
            alone, plugged = (two, one) if first == with_it else (one, two)
            bare.append(alone)
            added.append(plugged - alone)
            ratios.append(plugged / alone)
    print(f"{datetime.date.today()}, Python {platform.python_version()}, {machine}\n")
    print("| empty pytest run | without, ms | added, ms | with ÷ without | at most |")
    print("|---|--:|--:|--:|--:|")
    figures = f"{statistics.median(bare) * 1e3:,.0f} | {statistics.median(added) * 1e3:,.1f}"
    print(
        f"| pytest {importlib.metadata.version('pytest')} | {figures} | {statistics.median(ratios):.3f} | {LIMIT} |"
    )


def _base(folder: Path) -> Path:
    """pytest and what it needs, out of this environment and its other plugins."""
    for name in NEEDED:
        for file in importlib.metadata.distribution(name).files or ():
            if ".." not in file.parts and file.suffix != ".pyc":
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(str(file.locate()), folder / file)
    return folder


def _unpacked(folder: Path, *, plugin: bool = True) -> Path:
    """This source tree as pip would install it."""
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    wheel.unlink()
    if not plugin:
        (entries,) = folder.glob("*.dist-info/entry_points.txt")
        kept = re.sub(r"\[pytest11\]\n[^\[]*", "", entries.read_text())
        entries.write_text(kept)
    return folder


def _pytest(suite: Path, base: Path, installed: Path, *options: str) -> subprocess.CompletedProcess[str]:
    # -S: without the site-packages of this environment.
    command = [sys.executable, "-S", "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    paths = os.pathsep.join([str(base), str(installed)])
    variables = {"PYTHONPATH": paths, "PATH": os.environ["PATH"]}
    return subprocess.run(command, cwd=suite, env=variables, capture_output=True, text=True, check=True)


def _seconds(suite: Path, base: Path, installed: Path) -> float:
    began = time.perf_counter()
    _pytest(suite, base, installed)
    return time.perf_counter() - began
