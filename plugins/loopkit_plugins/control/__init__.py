"""Plugins that act on a loop: `from loopkit_plugins.control import EarlyStopping, Checkpoint, Progress, MaxSteps`.

Each is imported when first asked for: torch and tqdm are only needed by those that use them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoint import Checkpoint as Checkpoint
    from .early_stopping import EarlyStopping as EarlyStopping
    from .max_steps import MaxSteps as MaxSteps
    from .progress import Progress as Progress

_PLACES = {
    "Checkpoint": "checkpoint",
    "EarlyStopping": "early_stopping",
    "MaxSteps": "max_steps",
    "Progress": "progress",
}
__all__ = ["Checkpoint", "EarlyStopping", "MaxSteps", "Progress"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'loopkit_plugins.control' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"loopkit_plugins.control.{_PLACES[name]}"), name)
    globals()[name] = value
    return value
