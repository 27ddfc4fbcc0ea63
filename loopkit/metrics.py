"""`log(name, value)`: a named number from anywhere in a script."""

from __future__ import annotations

from typing import Any

from loopkit.watching import current_run


def log(name: str, value: Any, step: int | None = None) -> None:
    """Tell the open run a named number, such as `log("val/loss", value)`; without a watch it does nothing.

    Args:
        name: parts by slashes, as TensorBoard groups them.
        value: a float, or a 0-dim tensor, which is not read here.
        step: executed optimizer steps it belongs to; None for those so far.
    """
    run = current_run()
    if run is not None:
        run.log(name, value, step)
