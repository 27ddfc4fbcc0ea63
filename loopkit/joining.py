"""Where a spawned child process of a watched one begins: it knows nothing of the watch but what it is handed.

`multiprocessing` hands each such child a dictionary that it needs to start. While a watch is open there is one more
entry in it, which on arrival calls `join`: before the user's script is imported, so torch must not be imported
here (scripts set its environment variables first), nor anything that costs time in children that never train.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from loopkit.asleep import Asleep, Ticket


def join(
    folder: str, checks: Sequence[str], user_folders: Sequence[str], thresholds: Mapping[str, Mapping[str, float]]
) -> None:
    """Be watched from the first sign of training on, if there ever is one."""
    ticket = Ticket(folder, tuple(checks), tuple(user_folders), thresholds)
    if "torch" in sys.modules:
        Asleep(ticket, _wake)
    else:
        sys.meta_path.insert(0, _AfterImport("torch", lambda: Asleep(ticket, _wake)))


def _wake(ticket: Ticket) -> None:
    from loopkit.watching import open_child

    open_child(ticket)


class _AfterImport:
    """Calls `then` once a module has been imported, and is gone.

    Args:
        name: the module.
        then: what raises in it is dropped: an import that worked must not fail for our sake.
    """

    def __init__(self, name: str, then: Callable[[], object]) -> None:
        self._name = name
        self._then = then

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Let the others find it, and have a word with the loader they found."""
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        loader: Any = spec.loader if spec is not None else None
        if loader is None or not hasattr(loader, "exec_module"):
            return spec
        execute, then = loader.exec_module, self._then

        def exec_module(module: ModuleType) -> None:
            del loader.exec_module
            execute(module)
            try:
                then()
            except Exception:  # noqa: BLE001
                pass

        loader.exec_module = exec_module
        return spec
