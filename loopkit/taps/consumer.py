"""Who asks an iterator for a batch, and how: the loop that wants it, as its bytecode shows."""

from __future__ import annotations

import dis
import inspect
import sys
from types import FrameType

_BARS = frozenset({"alive_progress", "fastprogress", "rich", "tqdm"})
"""Progress bars: a loop of theirs is the user's."""


def consumer() -> FrameType | None:
    """The innermost frame outside torch and loopkit: the loop that wants a batch."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _package(frame) in ("torch", "loopkit"):
        frame = frame.f_back
    return frame


def is_generator(frame: FrameType) -> bool:
    """Whether it is a generator's."""
    return bool(frame.f_code.co_flags & inspect.CO_GENERATOR)


def asks_by_next(frame: FrameType) -> bool:
    """Whether the user's code has a call there, and not a `for`. Installed packages know what an empty pass is."""
    return not _is_installed(frame) and "CALL" in _operation(frame)


def asked_by() -> str:
    """What asks: "for", a loop of the user's; "generator", one in a generator; "" for anything else."""
    frame = consumer()
    while frame is not None and _package(frame) in _BARS:
        frame = frame.f_back
    if frame is None or _is_installed(frame) or _operation(frame) != "FOR_ITER":
        return ""
    return "generator" if is_generator(frame) else "for"


def _operation(frame: FrameType) -> str:
    return dis.opname[frame.f_code.co_code[frame.f_lasti]] if frame.f_lasti >= 0 else ""


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _is_installed(frame: FrameType) -> bool:
    return "site-packages" in frame.f_code.co_filename
