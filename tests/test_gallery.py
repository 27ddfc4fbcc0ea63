"""Each script of the gallery has one bug, and loopkit finds the one that its docstring names, and no other."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import loopkit

ROOT = Path(__file__).parents[1]
GALLERY = sorted((ROOT / "examples" / "gallery").glob("*.py"))


def page(script: Path) -> str:
    return ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""


def report(script: Path, folder: Path) -> dict[str, Any]:
    output = folder / "report.json"
    name = str(script.relative_to(ROOT))
    loopkit("run", "--format", "json", "--output", str(output), name, cwd=ROOT, HF_HOME=str(folder))
    told: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    return told


@pytest.mark.parametrize("script", GALLERY, ids=lambda script: str(script.stem))
def test_what_the_docstring_names_is_found_and_nothing_else(script: Path, tmp_path: Path) -> None:
    ((severity, slug),) = re.findall(r"^ +(error|warning)  ([a-z-]+)  \(", page(script), re.M)
    told = report(script, tmp_path)
    found = [finding for finding in told["findings"] if finding["severity"] != "info"]
    assert [(finding["severity"], finding["rule"]) for finding in found] == [(severity, slug)]
    (line,) = re.findall(r"at the line of `([^`…]+)", page(script)) or [""]
    assert line in script.read_text(encoding="utf-8").splitlines()[found[0]["line"] - 1]
    (seen,) = re.findall(r"^ +seen   (.*?)(?:\n +why|\n\n)", page(script), re.M | re.S) or [""]
    assert _words(seen) in _words(found[0]["message"])


def _words(text: str) -> str:
    """Without line breaks and numbers, which depend on versions."""
    return re.sub(r"\d+(\.\d+)?", "N", " ".join(text.split()))


def test_the_gallery_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for script in GALLERY:
        assert script.name in readme
