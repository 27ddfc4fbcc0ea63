"""Dropout, while one forward is looked at, and only then: for `Modes`, which keeps what was heard.

`torch.nn.functional.dropout` and its kin call `torch._VF` through the module, so that a name imported from there is
heard too; `torch.dropout` and `scaled_dot_product_attention` are heard where they are called by their module.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from threading import get_ident
from typing import Any

import torch

from loopkit.modereading import Draw
from loopkit.notes import graphs_compiled
from loopkit.run import Run
from loopkit.taps.losscalls import let_dynamo_look
from loopkit.taps.patch import opaque

_KIND = 21
"""Stands for these calls among those whose last site is remembered."""
_INNER = ("dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout")
_MOST = 64
"""Draws kept of a forward."""
_ABSENT = object()
_Rate = Callable[[tuple[Any, ...], dict[str, Any]], float]


class Ears:
    """Wraps the functions while open."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._open = False
        self._heard: list[Draw] = []
        self._before: list[tuple[Any, str, Any]] = []

    def open(self) -> None:
        """From now on."""
        if self._open or graphs_compiled():
            return  # Dynamo guards what it has compiled
        self._open = True
        let_dynamo_look()
        functional: Any = torch.nn.functional
        inner: Any = functional._VF
        for name in _INNER:
            for each in (name, f"{name}_"):
                self._wrap(inner, each, name, _p_of_dropout)
        self._wrap(torch, "dropout", "dropout", _p_of_dropout)
        self._wrap(functional, "scaled_dot_product_attention", "scaled_dot_product_attention", _p_of_attention)

    def close(self) -> list[Draw]:
        """No more; what was heard is returned."""
        while self._before:
            owner, name, original = self._before.pop()
            if original is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, original)
        self._open = False
        heard, self._heard = self._heard, []
        return heard

    undo = close

    def _wrap(self, owner: Any, name: str, kind: str, p_of: _Rate) -> None:
        original = getattr(owner, name)
        self._before.append((owner, name, vars(owner).get(name, _ABSENT)))
        setattr(owner, name, self._around(original, kind, p_of))

    def _around(self, original: Any, kind: str, p_of: _Rate) -> Callable[..., Any]:
        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            run = self._run
            if self._open and run.recorder.thread == get_ident() and not torch.compiler.is_dynamo_compiling():
                run.guarded(lambda: self._drew(kind, p_of(args, kwargs)))
            return original(*args, **kwargs)

        # By these marks Dynamo passes by the wrapper, and compiles what it is put around.
        wrapper.__dict__["__script_if_tracing_wrapper"] = True
        wrapper.__dict__["__original_fn"] = original
        opaque(wrapper, callees=False)
        return wrapper

    def _drew(self, kind: str, p: float) -> None:
        if p > 0 and len(self._heard) < _MOST:
            self._heard.append(Draw(kind, p, self._run.recorder.sites.here(_KIND)))


def _p_of_dropout(args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    """The probability of a dropout that is active; 0 where it is not."""
    given = dict(zip(("input", "p", "train"), args, strict=False)) | kwargs
    return float(given.get("p", 0)) if given.get("train", given.get("training")) else 0.0


def _p_of_attention(args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    return float(args[4] if len(args) > 4 else kwargs.get("dropout_p", 0.0))
