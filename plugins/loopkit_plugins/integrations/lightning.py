"""Lightning: `lightning.pytorch.Trainer(callbacks=[LoopkitCallback()])`, or LOOPKIT=1 in the environment."""

from __future__ import annotations

from lightning.pytorch import Callback

from .fitting import WatchesFit


class LoopkitCallback(WatchesFit, Callback):  # type: ignore[misc]
    """Watches each `trainer.fit(...)`; takes what `loopkit.watch` takes."""
