"""The example of a package by somebody else: built, installed, and tested by its own tests against our wheel."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

import loopkit
from tests.authors.conftest import EXAMPLE, ROOT, Environment
from tests.test_structure import imports

PLACES = "python -c 'import loopkit, loopkit_plugins, house_rules as h; print(loopkit.__file__, loopkit_plugins, h)'"


@pytest.fixture(scope="module")
def outside(fresh: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing in it but the example's tests."""
    done = fresh.run(f"pip install -q {fresh.wheels}/loopkit_house_rules-*.whl", fresh.folder)
    assert done.returncode == 0, done.stdout
    folder = tmp_path_factory.mktemp("outside")
    shutil.copytree(EXAMPLE / "tests", folder / "tests")
    return folder


def test_it_passes_its_tests_against_the_installed_wheel(fresh: Environment, outside: Path) -> None:
    places = fresh.run(PLACES, outside)
    assert places.returncode == 0, places.stdout
    assert places.stdout.count(str(fresh.folder)) == 3
    assert str(ROOT) not in places.stdout
    done = fresh.run("python -m pytest -q -p no:cacheprovider tests", outside)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def test_it_uses_public_names_alone() -> None:
    for path in EXAMPLE.rglob("*.py"):
        for name in imports(path, at_run_time=False):
            assert not name.startswith("loopkit_plugins"), f"{path} imports {name}"
            if name.startswith("loopkit."):
                assert name.removeprefix("loopkit.") in loopkit.__all__, f"{path} imports {name}, which is not public"


def test_it_has_what_a_package_needs() -> None:
    assert (EXAMPLE / "README.md").exists()
    source = (EXAMPLE / "house_rules" / "checkpoint_overwritten.py").read_text(encoding="utf-8")
    (check,) = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    page = ast.get_docstring(check) or ""
    for heading in ("What it looks for", "Why that hurts", "The repair", "Left alone", "What it costs"):
        assert heading in page
