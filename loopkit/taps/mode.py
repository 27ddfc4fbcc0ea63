"""`Module.train` and `Module.eval` → `mode_changed`. Installed only while somebody hears it."""

from __future__ import annotations

from typing import Any

import torch

from loopkit.run import Run
from loopkit.taps.dropout import Ears
from loopkit.taps.patch import Handle, Tap, Taps


def install(run: Run) -> Handle:
    """Listen to `train`, which `eval` calls and which calls itself for every child; and let `Modes` look."""
    depth = 0
    modes = run.recorder.losses.modes

    def before(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal depth
        depth += 1

    def after(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        nonlocal depth
        depth -= 1
        if depth == 0:
            modes.changed(args[0])
            run.emit("mode_changed", module=args[0], training=args[0].training)

    def failed(run: Run, *_: object) -> None:
        nonlocal depth
        depth -= 1

    return Taps(_Looks(run), Tap(torch.nn.Module, "train", run, before, after, failed))


class _Looks:
    """Lets `Modes` look, with ears for dropout."""

    def __init__(self, run: Run) -> None:
        self._modes = run.recorder.losses.modes
        self._ears = Ears(run)
        self._modes.ears = self._ears

    def undo(self) -> None:
        """No more."""
        self._ears.close()
        if self._modes.ears is self._ears:
            self._modes.ears = None
