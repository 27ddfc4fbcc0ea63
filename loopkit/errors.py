"""The errors loopkit raises at its users, and the one exception that may pass through their loop."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LoopkitError(Exception):
    """Anything loopkit refuses; the message says what to do about it."""


class UsageError(LoopkitError):
    """An option, rule name or argument that cannot be meant as given."""


class PluginError(LoopkitError):
    """A plugin that cannot be found, loaded or registered; the message names it."""


class StopTraining(BaseException):
    """Raised by a plugin to end training.

    Derives from `BaseException`, as `KeyboardInterrupt` does, so that an `except Exception` around
    a training step does not swallow it. `watch()` and `loopkit run` end quietly on it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A clause that names the nearest known word, or an empty string when none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
