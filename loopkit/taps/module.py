"""Calling a model → `before_forward`, `after_forward`, once for the outermost module.

Listening at `Module.__call__` costs about 1 µs for every submodule of every call. So that is done only until a
backward has shown which outermost modules train; then `__call__` of *their classes* is wrapped instead. Nothing
is stored on a module: a hook on the instance would break `torch.save(model)`. When backwards follow no forward
that was heard, somebody trains another model, and the search begins anew. Once torch.compile has made a graph, all
stays as it is: Dynamo guards `__call__`.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from time import perf_counter_ns
from typing import Any

import torch

from loopkit.models import unwrapped
from loopkit.notes import COMPILED, graphs_compiled
from loopkit.recorder import Recorder
from loopkit.run import Run
from loopkit.taps.patch import Cell, Handle, hide_this_frame, listen, opaque

_is_compiling = torch.compiler.is_dynamo_compiling
_SEARCHES = 8
"""A search is made at most this often: a loop with two backwards for each forward is not a new model."""


def install(run: Run) -> Handle:
    """Listen to models."""
    return _Models(run)


class _Models:
    """Which classes are wrapped, and whether the search for more is on."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._wrapped: dict[type[Any], _Wrapper] = {}
        self._search: _Wrapper | None = None
        self._candidates: set[type[Any]] = set()
        self._searches = 0
        self.depth = 0
        self.hears_began, self.hears_end = "before_forward" in run.heard, "after_forward" in run.heard
        run.recorder.on_backward = self._backward_ended
        self._begin_search()

    def undo(self) -> None:
        """Unwrap every class."""
        self._run.recorder.on_backward = None
        self._end_search()
        for wrapper in reversed(self._wrapped.values()):
            wrapper.undo()
        self._wrapped.clear()

    def ended(self, run: Run, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """The outermost call returned."""
        run.recorder.forward_ended()
        if run.recorder.listening:
            run.recorder.look_ended()
        if run.recorder.evaluating and run.recorder.on_output is not None:
            run.recorder.on_output(args, kwargs, output)
        if self._search is not None and torch.is_grad_enabled() and _trains(module):
            self._candidates.add(type(module))
            if run.recorder.on_evaluation is not None and (inner := unwrapped(module)) is not module:
                self._candidates.add(type(inner))  # DDP is trained, and often what it holds is evaluated
            if type(module).__name__ == "OptimizedModule":  # made before the watch opened, perhaps
                run.could_not_check("*", COMPILED)
        if "after_forward" in run.heard:
            run.emit("after_forward", module=module, args=args, kwargs=kwargs, output=output)

    def _backward_ended(self) -> None:
        """What was outermost, has trainable parameters and came before a backward is what is trained."""
        if graphs_compiled():
            return  # changing any `__call__` now would make Dynamo compile what it has compiled again
        if self._search is None:
            if self._searches < _SEARCHES:
                self._begin_search()
        elif self._candidates:
            self._end_search()
            for cls in self._candidates:
                self._wrap(cls)

    def _begin_search(self) -> None:
        self._searches += 1
        self._run.recorder.searching = True
        self._candidates.clear()
        self._search = _Wrapper(torch.nn.Module, self._run, self)

    def _end_search(self) -> None:
        if self._search is not None:
            self._search.undo()
            self._search = None
            self._run.recorder.searching = False

    def _wrap(self, cls: type[Any]) -> None:
        if cls not in self._wrapped:
            self._wrapped[cls] = _Wrapper(cls, self._run, self)


class _Wrapper:
    """`__call__` of one module class, wrapped."""

    def __init__(self, cls: type[Any], run: Run, models: _Models) -> None:
        self._cls = cls
        self._own = vars(cls).get("__call__")
        self._cell = Cell(run)
        self._function = _around(cls, self._own, self._cell, _Depth(models))
        cls.__call__ = self._function

    def undo(self) -> None:
        """Unwrap. If somebody has patched on top meanwhile, this stays beneath it, inert."""
        self._cell.close()
        if vars(self._cls).get("__call__") is not self._function:
            return
        if self._own is None:
            del self._cls.__call__
        else:
            self._cls.__call__ = self._own


class _Depth:
    """Tells the outermost call from those inside it; pickled with a class by value, it forgets the watch."""

    __slots__ = ("models",)

    def __init__(self, models: _Models | None = None) -> None:
        self.models = models

    def __reduce__(self) -> tuple[type[_Depth], tuple[()]]:
        return _Depth, ()


def _around(cls: type[Any], own: Callable[..., Any] | None, cell: Cell, outer: _Depth) -> Callable[..., Any]:
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
        # Through super, not through a saved original: fx would inline leaf modules otherwise.
        original = super(cls, self).__call__ if own is None else own.__get__(self)
        if _is_compiling():
            return original(*args, **kwargs)
        recorder, models = cell.recorder, outer.models
        outermost = ends = False
        try:
            if cell.run is None or models is None or models.depth or recorder.in_backward:
                if cell.run is not None and models is not None and models.depth and recorder.searching:
                    listen(cell.run, _inside, cell.run, self)
                return original(*args, **kwargs)
            if recorder.thread != get_ident() and not cell.listens():
                return original(*args, **kwargs)
            weight = recorder.weight
            began = perf_counter_ns() if weight else 0
            try:  # as in `patch.py`: without a frame that only keeps time
                ends = recorder.forward_began(self, args, kwargs) or models.hears_end
                if models.hears_began and cell.run is not None:
                    cell.run.emit("before_forward", module=self, args=args, kwargs=kwargs)
            except Exception as error:  # noqa: BLE001
                cell.broken(error)
            if weight:
                recorder.spent_ns += (perf_counter_ns() - began) * weight
            models.depth, outermost = 1, True
            output = original(*args, **kwargs)
        except BaseException as error:
            hide_this_frame(error)
            if outermost and cell.run is not None and recorder.listening:
                listen(cell.run, recorder.look_ended)
            raise
        finally:
            if outermost and models is not None:
                models.depth = 0
        if ends and cell.run is not None:
            listen(cell.run, models.ended, cell.run, self, args, kwargs, output)
        return output

    return __call__


def _trains(module: torch.nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _inside(run: Run, module: torch.nn.Module) -> None:
    """A submodule is called: heard only while the search is on."""
    if run.recorder.thread == get_ident():
        run.recorder.models.ran(module)


opaque(_inside, callees=True)
opaque(_Models.ended, callees=True)
opaque(Recorder.forward_began, callees=True)
