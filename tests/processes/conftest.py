"""Whatever happens to the processes of a run, no file of ours is left."""

from __future__ import annotations

import multiprocessing.process
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files go; nothing of ours is in it after the test.

    Not below `tmp_path`: sockets of multiprocessing lie in it, and their paths may be no longer than 108 characters.
    """
    with tempfile.TemporaryDirectory(prefix="lk-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        monkeypatch.setenv("TMPDIR", name)
        monkeypatch.setattr(tempfile, "tempdir", None)
        remembered = multiprocessing.process.current_process()._config  # type: ignore[attr-defined]
        remembered["tempdir"] = name  # where sockets go; what it remembers is another test's, and gone
        yield folder
        remembered.pop("tempdir", None)
        assert list(folder.glob("loopkit*")) == []
