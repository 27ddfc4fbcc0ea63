"""Keep a training run so that it can go on: the last state and the best, in files that are never half written.

`Checkpoint` is the plugin. `restore(path, model=…, optimizer=…)` puts a file back into objects like those that were
trained, `load(path)` shows what it holds, `latest(folder)` finds the newest whole one.
"""

from __future__ import annotations

from .content import plain as plain
from .files import CheckpointError as CheckpointError
from .files import latest as latest
from .files import load as load
from .plugin import Checkpoint as Checkpoint
from .plugin import restore as restore

__all__ = ["Checkpoint", "CheckpointError", "latest", "load", "restore"]
