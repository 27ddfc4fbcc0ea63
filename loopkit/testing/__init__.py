"""For tests: of plugins, and of training loops.

`watch_loop` gives the findings of a function, `assert_finds` and `assert_silent` judge them; `record` writes down
what a run told its checks, `replay` tells it again without torch; `assert_torch_untouched` holds promise 2; and
`loopkit.testing.strategies` makes loops for hypothesis, which is imported there and nowhere else. Each name is
fetched when first asked for: importing this imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loopkit.testing.assertions import assert_finds as assert_finds
    from loopkit.testing.assertions import assert_silent as assert_silent
    from loopkit.testing.recording import Recorder as Recorder
    from loopkit.testing.recording import record as record
    from loopkit.testing.replaying import Replay as Replay
    from loopkit.testing.replaying import replay as replay
    from loopkit.testing.stream import Stream as Stream
    from loopkit.testing.torchstate import assert_torch_untouched as assert_torch_untouched
    from loopkit.testing.watchedloop import watch_loop as watch_loop
    from loopkit.testing.watchedtest import WatchedTest as WatchedTest
    from loopkit.testing.writtenloop import WrittenLoop as WrittenLoop

_PLACES = {
    "assert_finds": "assertions",
    "assert_silent": "assertions",
    "Recorder": "recording",
    "record": "recording",
    "Replay": "replaying",
    "replay": "replaying",
    "Stream": "stream",
    "assert_torch_untouched": "torchstate",
    "watch_loop": "watchedloop",
    "WatchedTest": "watchedtest",
    "WrittenLoop": "writtenloop",
}
__all__ = [*_PLACES]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'loopkit.testing' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"loopkit.testing.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
