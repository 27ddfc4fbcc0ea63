"""Lightning: `pytorch_lightning.Trainer(callbacks=[LoopkitCallback()])`, or LOOPKIT=1 in the environment."""

from __future__ import annotations

from pytorch_lightning import Callback

from .fitting import WatchesFit, asked_for


class LoopkitCallback(WatchesFit, Callback):  # type: ignore[misc]
    """Watches each `trainer.fit(...)`; takes what `loopkit.watch` takes."""


def callbacks() -> list[Callback]:
    """What a Trainer is given by the entry point `pytorch_lightning.callbacks_factory`: nothing if not asked for."""
    return [LoopkitCallback()] if asked_for() else []
