"""Running pytest on a small suite in another process, with the plugin found as an installed package's is."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENTRY = "loopkit_pytest"


def is_installed() -> bool:
    """Whether this environment knows the plugin: an editable install from before there was one does not."""
    return any(entry.value == ENTRY for entry in importlib.metadata.entry_points(group="pytest11"))


def environment(folder: Path) -> dict[str, str]:
    """Variables with which a process finds this source tree, and its plugin under its name."""
    paths = [str(ROOT), str(ROOT / "plugins")]
    if not is_installed():
        about = folder / "entry" / "loopkit_entry-0.dist-info"
        about.mkdir(parents=True, exist_ok=True)
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: loopkit-entry\nVersion: 0\n")
        (about / "entry_points.txt").write_text(f"[pytest11]\nloopkit = {ENTRY}\n")
        paths.append(str(about.parent))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_", "LOOPKIT_"))}
    return kept | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "PY_COLORS": "0"}


@dataclass
class Case:
    """What a JUnit file says of one test."""

    outcome: str = "passed"
    text: str = ""
    properties: dict[str, str] = field(default_factory=dict)


@dataclass
class Done:
    """A pytest run that ended."""

    code: int
    text: str
    cases: dict[str, Case]


def pytest_on(
    folder: Path, suite: str, *options: str, files: dict[str, str] | None = None, under: Sequence[str] = ()
) -> Done:
    """Write `suite` as test_suite.py, beside other files, and run pytest there; `under` is put before `-m pytest`."""
    for name, text in {"test_suite.py": suite, "pytest.ini": "[pytest]\n", **(files or {})}.items():
        (folder / name).write_text(text, encoding="utf-8")
    junit = folder / "junit.xml"
    command = [
        sys.executable,
        *under,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-q",
        f"--junitxml={junit}",
        *options,
    ]
    done = subprocess.run(
        command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False, timeout=300
    )
    return Done(done.returncode, done.stdout + done.stderr, _cases(junit) if junit.exists() else {})


def _cases(junit: Path) -> dict[str, Case]:
    cases: dict[str, Case] = {}
    for node in ET.parse(junit).iter("testcase"):
        case = cases.setdefault(node.get("name", ""), Case())
        for child in node:
            if child.tag in ("failure", "error", "skipped"):
                case.outcome = child.tag
                case.text += f"{child.get('message')}\n{child.text}"
            elif child.tag == "properties":
                case.properties |= {each.get("name", ""): each.get("value", "") for each in child}
    return cases
