"""The inner functions that the losses of `torch.nn` and `torch.nn.functional` call, wrapped while somebody listens.

They are wrapped only then: in an ordinary training step no wrapper is met. A name imported from `torch.nn.functional`
is heard too, and torch's warnings about shapes name the user's line as ever.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from threading import get_ident
from typing import Any

import torch

from loopkit.lossmean import CRITERIA, Criterion
from loopkit.run import Run
from loopkit.taps.patch import Cell, listen, opaque

_is_compiling = torch.compiler.is_dynamo_compiling
Heard = Callable[[Criterion, tuple[Any, ...], dict[str, Any], Any], None]
"""Called with the function, its arguments and what it returned."""


class LossCalls:
    """Who listens to the losses of a run, and the wrappers."""

    def __init__(self) -> None:
        self.cell = Cell()
        self.listeners: dict[str, Heard] = {}
        self._wrappers = [(each, _around(each, self)) for each in CRITERIA]

    def start(self, run: Run, name: str, heard: Heard) -> None:
        """Somebody listens."""
        self.cell.run = run
        if not self.listeners:
            self._wrap()
        self.listeners[name] = heard

    def stop(self, name: str) -> None:
        """Somebody listens no more."""
        if self.listeners.pop(name, None) is not None and not self.listeners:
            self.cell.run = None
            self._unwrap()

    def _wrap(self) -> None:
        let_dynamo_look()
        for each, ours in self._wrappers:
            if vars(each.owner)[each.name] is ours.__wrapped__:
                setattr(each.owner, each.name, ours)
                _SCRIPT[id(ours)] = f"aten::{each.name}"

    def _unwrap(self) -> None:
        rules = _dynamo_table()
        for each, ours in self._wrappers:
            _SCRIPT.pop(id(ours), None)
            if ours in rules:  # made meanwhile
                rules[ours.__wrapped__] = rules.pop(ours)
            if vars(each.owner)[each.name] is ours:
                setattr(each.owner, each.name, ours.__wrapped__)


_SCRIPT: dict[int, str] = getattr(torch.jit._builtins, "_builtin_table", None) or {}
"""By which TorchScript knows torch's own functions: scripted meanwhile, a wrapper is what it is put around."""


def _dynamo_table() -> dict[Any, Any]:
    """By which Dynamo knows them, if it has made it."""
    look = getattr(sys.modules.get("torch._dynamo.trace_rules"), "get_torch_obj_rule_map", None)
    made: dict[Any, Any] = look() if look is not None and look.cache_info().currsize else {}
    return made


def let_dynamo_look() -> None:
    """Dynamo keeps a table of torch's functions, made from their names when first needed: not while they are ours."""
    rules = sys.modules.get("torch._dynamo.trace_rules")
    look = getattr(rules, "get_torch_obj_rule_map", None)
    if look is not None:
        look()


def _around(criterion: Criterion, calls: LossCalls) -> Any:
    original = vars(criterion.owner)[criterion.name]
    cell = calls.cell

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if _is_compiling():
            return result
        run = cell.run
        if run is not None and run.recorder.thread == get_ident():
            for heard in list(calls.listeners.values()):
                listen(run, heard, criterion, args, kwargs, result)
        return result

    # By these marks Dynamo passes by the wrapper, and compiles what it is put around.
    wrapper.__dict__["__script_if_tracing_wrapper"] = True
    wrapper.__dict__["__original_fn"] = original
    return opaque(wrapper, callees=False)


def is_plain(value: Any) -> bool:
    """Whether a loss is a tensor like any other, of which a copy may be computed unseen."""
    if type(value) is not torch.Tensor or not value.is_floating_point() or value.is_meta:
        return False
    if (
        torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
    ):
        return False
    if torch._C._are_functorch_transforms_active():
        return False
    return not (value.is_cuda and torch.cuda.is_current_stream_capturing())
