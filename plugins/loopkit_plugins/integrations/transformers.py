"""HF Trainer: `Trainer(..., callbacks=[LoopkitCallback()])`."""

from __future__ import annotations

import sys
from typing import Any

from transformers import TrainerCallback

from loopkit import Door

_WORKS = ("_evaluate", "_run_epoch", "_finalize_training")
_STEP = "training_step"  # in versions that have no `_run_epoch`


class LoopkitCallback(TrainerCallback):  # type: ignore[misc]
    """Watches each `trainer.train()`.

    Args:
        options: as `loopkit.watch` takes them.

    Attributes:
        door: `door.run` is the run that is watched, or was watched last.
    """

    def __init__(self, **options: Any) -> None:
        self.door = Door(**options)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the watch. Trainer tells its callbacks of no exception, so what it calls is looked after."""
        self.door.open()
        trainer = self._trainer()
        for name in _WORKS if hasattr(trainer, "_run_epoch") else (_STEP,):
            if hasattr(trainer, name):
                self.door.close_if_it_raises(trainer, name)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close it."""
        self.door.close()

    def _trainer(self) -> Any:
        """The trainer that is calling: callbacks are not handed it."""
        frame = sys._getframe(1)
        while frame is not None:
            owner = frame.f_locals.get("self")
            handler = getattr(owner, "callback_handler", None)
            if any(each is self for each in getattr(handler, "callbacks", ())):
                return owner
            if frame.f_back is None:
                return None
            frame = frame.f_back
        return None
