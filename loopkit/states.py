"""Whether a saved state belongs to this `Loop`, said before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from loopkit.errors import UsageError

SCHEMA = 1
_NAMES = ("updates", "epochs", "pass", "latest", "random", "plugins")
_SHOWN = 3


def check(state: Mapping[str, Any], model: nn.Module, parts: Mapping[str, Any]) -> None:
    """Refuse what is no state of a Loop like this one.

    Raises:
        UsageError: what is missing, or how the models differ.
    """
    if not isinstance(state, Mapping) or "loopkit" not in state:
        raise UsageError("this is no state of a Loop: give what Loop.state_dict returned")
    if state["loopkit"] != SCHEMA:
        raise UsageError(f"this state of a Loop has schema {state['loopkit']!r}; this loopkit reads {SCHEMA}")
    lacking = [name for name in (*_NAMES, *parts) if name not in state]
    if lacking:
        raise UsageError(f"this state of a Loop has no {_some(lacking)}, which this Loop has")
    _compare(state["model"], model.state_dict())


def _compare(saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    missing, extra = [name for name in own if name not in saved], [name for name in saved if name not in own]
    shaped = [
        f"{name} {list(value.shape)} instead of {list(own[name].shape)}"
        for name, value in saved.items()
        if isinstance(value, Tensor) and isinstance(own.get(name), Tensor) and value.shape != own[name].shape
    ]
    told = [("lacks", missing), ("has also", extra), ("has other shapes:", shaped)]
    if missing or extra or shaped:
        differences = "; it ".join(f"{word} {_some(names)}" for word, names in told if names)
        raise UsageError(f"this state is of another model: it {differences}")


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
