"""Texts that users read, kept as files: `pytest --snapshots-update` writes them anew."""

from __future__ import annotations

from pathlib import Path

SNAPSHOTS = Path(__file__).parent / "snapshots"


def compare(name: str, text: str, update: bool) -> None:
    """A text is the one that is stored under `name`."""
    path = SNAPSHOTS / f"{name}.txt"
    if update:
        path.write_text(text, encoding="utf-8")
    assert path.exists(), f"no snapshot {path}: run pytest --snapshots-update and read it"
    assert text == path.read_text(encoding="utf-8"), f"{path} differs: read it, then pytest --snapshots-update"
