"""Following only the README, a new check is written, tested and registered in a fresh environment."""

from __future__ import annotations

import re
from pathlib import Path

from tests.authors.conftest import ROOT, Environment

TITLE = "## Write a check in ten minutes\n"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)


def section() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return text.split(TITLE)[1].split("\n## ")[0].split("\n### ")[0]


def commands(transcript: str) -> list[tuple[str, list[str]]]:
    """Each command, and the lines that are shown below it."""
    found: list[tuple[str, list[str]]] = []
    for line in transcript.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


def test_the_section_is_a_transcript_that_works(fresh: Environment, tmp_path: Path) -> None:
    ran = []
    for kind, body in _BLOCK.findall(section()):
        if kind != "console":
            name = body.partition("\n")[0]
            assert re.fullmatch(r"# [\w.]+", name), "a block begins with the name of its file"
            (tmp_path / name[2:]).write_text(body)  # as it is copied, its first line too
            continue
        for command, shown in commands(body):
            done = fresh.run(command, tmp_path)
            ran.append(command)
            assert done.returncode == 0, f"{command}:\n{done.stdout}"
            for line in shown:
                assert line in done.stdout, f"{command} did not print {line!r}:\n{done.stdout}"
    fresh.run("pip uninstall -q -y house-rules", tmp_path)
    assert {"pip install .", "python -m pytest -q", "loopkit plugins"} <= set(ran)
    assert len(ran) <= 10, "ten minutes are not for more"
