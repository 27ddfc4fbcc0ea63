"""What Lightning calls by its entry points for every Trainer: nothing is imported unless LOOPKIT=1 asks for it."""

from __future__ import annotations

import os
from typing import Any


def lightning() -> list[Any]:
    """For `lightning.pytorch.Trainer`."""
    if not _asked_for():
        return []
    from .lightning import LoopkitCallback

    return [LoopkitCallback()]


def pytorch_lightning() -> list[Any]:
    """For `pytorch_lightning.Trainer`."""
    if not _asked_for():
        return []
    from .pytorch_lightning import LoopkitCallback

    return [LoopkitCallback()]


def _asked_for() -> bool:
    return os.environ.get("LOOPKIT", "0") not in ("", "0")
