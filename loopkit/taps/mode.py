"""`Module.train` and `Module.eval` → `mode_changed`. Installed only while somebody hears it."""

from __future__ import annotations

from typing import Any

import torch

from loopkit.run import Run
from loopkit.taps.patch import Handle, Tap


def install(run: Run) -> Handle:
    """Listen to `train`, which `eval` calls and which calls itself for every child."""
    depth = 0

    def before(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal depth
        depth += 1

    def after(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        nonlocal depth
        depth -= 1
        if depth == 0:
            run.emit("mode_changed", module=args[0], training=args[0].training)

    def failed(run: Run, *_: object) -> None:
        nonlocal depth
        depth -= 1

    return Tap(torch.nn.Module, "train", run, before, after, failed)
