"""`--trace-plugins`: each call of a hook as a line, with its arguments and what was answered."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from loopkit.finding import Finding

_NAMED = 3  # so many plugins that answer nothing are named
_DEEP = 2
_LONG = 4


class Trace:
    """Prints hook calls to stderr. No tensor is read for it, and no `repr` of the user's is run."""

    def __init__(self) -> None:
        self._open: list[list[tuple[str, Sequence[Finding] | None]]] = []

    def before(self, hook: str, implementations: Sequence[Any], arguments: Mapping[str, Any]) -> None:
        """A hook is about to be called."""
        self._open.append([])

    def answered(self, plugin: str, answer: Sequence[Finding] | None) -> None:
        """One plugin has answered."""
        if self._open:
            self._open[-1].append((plugin, answer))

    def after(self, outcome: Any, hook: str, implementations: Sequence[Any], arguments: Mapping[str, Any]) -> None:
        """All have: print it."""
        answers = self._open.pop() if self._open else []
        given = ", ".join(f"{name}={shown(value)}" for name, value in arguments.items() if name != "run")
        line = f"loopkit: {hook}({given})  {_answers(answers)}"
        try:
            print(line, file=sys.stderr, flush=True)
        except (OSError, ValueError):
            pass  # stderr is gone, and that is no reason to fail


def _answers(answers: Sequence[tuple[str, Sequence[Finding] | None]]) -> str:
    said = [f"{name} → {', '.join(shown(finding) for finding in found)}" for name, found in answers if found]
    silent = [name for name, found in answers if not found]
    if 0 < len(silent) <= _NAMED:
        said.append(f"{', '.join(silent)} → nothing")
    elif silent:
        said.append(f"{len(silent)}{' other' if said else ''} plugins → nothing")
    return "; ".join(said)


def shown(value: object, depth: int = 0) -> str:
    """A value in few words."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return f"{type(value).__name__}({', '.join(map(str, value.shape))})"
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "…")
    if isinstance(value, Finding):
        return f"{value.rule} at {value.place}" if value.place else value.rule
    if depth < _DEEP and isinstance(value, dict):
        return "{" + _several([f"{shown(key)}: {shown(each, depth + 1)}" for key, each in value.items()]) + "}"
    if depth < _DEEP and isinstance(value, list | tuple):
        brackets = "[]" if isinstance(value, list) else "()"
        return brackets[0] + _several([shown(each, depth + 1) for each in value]) + brackets[1]
    return f"<{type(value).__name__}>"


def _several(parts: list[str]) -> str:
    return ", ".join(parts[:_LONG] + ["…"] * (len(parts) > _LONG))
