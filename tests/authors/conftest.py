"""A fresh environment, with loopkit installed as a user installs it: from its wheel, not from the source tree."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "third_party_plugin"


@dataclass(frozen=True)
class Environment:
    """A virtual environment and the wheels that were built for it."""

    folder: Path
    wheels: Path

    def run(self, command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """A line as typed into its shell."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LOOPKIT", "PIP"))
        }
        # What a package needs is there, and nothing can be fetched.
        offline = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "OMP_NUM_THREADS": "1"}
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            ["bash", "-c", command],
            cwd=cwd,
            env=kept | offline | {"PATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with loopkit's wheel in it, and the torch that the tests run with."""
    folder = tmp_path_factory.mktemp("fresh")
    wheels = folder / "wheels"
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*build, "-w", str(wheels), str(ROOT), str(EXAMPLE)], check=True, timeout=300)
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True, timeout=300)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    _lend(Path(sysconfig.get_path("purelib")), site)
    made = Environment(folder / "venv", wheels)
    done = made.run(f"pip install -q {wheels}/torch_loopkit-*.whl", folder)
    assert done.returncode == 0, done.stdout
    return made


def _lend(ours: Path, site: Path) -> None:
    """Have in `site` all that is in `ours`, torch and pytest too, by links; but no loopkit."""
    for each in ours.iterdir():
        about_us = "loopkit" in each.name.lower() or each.suffix == ".pth"
        if not about_us and not (site / each.name).exists():
            (site / each.name).symlink_to(each)
