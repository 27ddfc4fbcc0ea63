"""What both names of Lightning have in common: when fitting begins, ends, and fails."""

from __future__ import annotations

import os
from typing import Any


class WatchesFit:
    """The hooks of a Lightning callback that watches each `trainer.fit(...)`.

    Args:
        options: as `loopkit.watch` takes them.

    Attributes:
        door: `door.run` is the run that is watched, or was watched last.
    """

    def __init__(self, **options: Any) -> None:
        from loopkit import Door  # here: Lightning imports this file for every Trainer, watched or not

        self.door = Door(**options)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Open the watch, before optimizers are made."""
        if stage == "fit":
            self.door.open()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Close it."""
        if stage == "fit":
            self.door.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Close it all the same."""
        self.door.close(exception)


def asked_for() -> bool:
    """Whether the environment asks every trainer to be watched: `LOOPKIT=1`."""
    return os.environ.get("LOOPKIT", "0") not in ("", "0")
