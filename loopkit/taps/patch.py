"""Putting a listener around a torch function, and taking it away without a trace."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch

from loopkit.hearing import Hearing
from loopkit.run import Run


class Handle(Protocol):
    """What every `install(run)` returns."""

    def undo(self) -> None:
        """Leave torch as it was. A second call does nothing."""


_DEAF = Hearing()


class Cell:
    """Where a wrapper finds the run it reports to; empty once the watch has closed.

    A wrapper may outlive the watch: somebody imported it by name, or a class was pickled by value with it.
    It then passes every call through, and the cell pickles as an empty one.

    Attributes:
        run: the run; None once the watch has closed.
        recorder: its recorder; then one that hears no thread.
    """

    __slots__ = ("recorder", "run")

    def __init__(self, run: Run | None = None) -> None:
        self.run = run
        self.recorder: Any = run.recorder if run is not None else _DEAF

    def close(self) -> None:
        """Report to nobody any more."""
        self.run, self.recorder = None, _DEAF

    def listens(self) -> bool:
        """Whether an event that happens now belongs to the run, where its recorder does not hear this thread yet."""
        return self.run is not None and self.run.listens()

    def broken(self, error: Exception) -> None:
        """A listener failed."""
        if self.run is not None:
            self.run.broken(error)

    def __reduce__(self) -> tuple[type[Cell], tuple[()]]:
        return Cell, ()


Listener = Callable[[Any, tuple[Any, ...], dict[str, Any]], object]
"""Called with the run, or its recorder, and the arguments of the call."""
Ending = Callable[[Any, tuple[Any, ...], dict[str, Any], Any], object]
Failing = Callable[..., None]


def ignore(run: Any, *_: Any) -> None:
    """Listens to nothing."""


class Tap:
    """A wrapper around one attribute of a torch module or class.

    Args:
        owner: the module or class.
        name: its attribute.
        run: the run to report to.
        before: called with the call's arguments before the original.
        after: called with arguments and result once the original returned.
        failed: called instead of `after` when the original raised, with the call's arguments and the error.
        rarely: call `before` only in the first updates, and then in one of sixteen: when events are timed; and when
            the gradients that it is about to change were not looked at.
        to_recorder: the listeners are methods of `Recorder`, called on the run's: a frame less, at every event.
    """

    def __init__(
        self,
        owner: Any,
        name: str,
        run: Run,
        before: Listener = ignore,
        after: Ending = ignore,
        failed: Failing = ignore,
        *,
        rarely: bool = False,
        to_recorder: bool = False,
    ) -> None:
        self._owner = owner
        self._name = name
        self._own = vars(owner).get(name, _ABSENT)
        self._cell = Cell(run)
        self._wrapper = _around(getattr(owner, name), self._cell, before, after, failed, rarely, to_recorder)
        setattr(owner, name, self._wrapper)

    def undo(self) -> None:
        """Put the original back. If somebody has patched on top meanwhile, ours stays beneath it, inert."""
        self._cell.close()
        if not self.uncovered:
            covered.append(self)
            return
        if self._own is _ABSENT:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._own)

    @property
    def uncovered(self) -> bool:
        """Whether nobody has patched on top."""
        return vars(self._owner).get(self._name) is self._wrapper


class Wrapping(Handle, Protocol):
    """A handle that stands in the place of one function."""

    @property
    def uncovered(self) -> bool:
        """Whether nobody has patched on top."""


covered: list[Wrapping] = []
"""What was undone beneath somebody else's patch."""


def sweep() -> None:
    """Take away inert wrappers that are on top again: what patched them in a test is gone when the test is over."""
    for each in list(covered):  # in the order in which they were undone: the outer one first
        if each.uncovered:
            covered.remove(each)
            each.undo()


class Taps:
    """Several handles as one."""

    def __init__(self, *handles: Handle) -> None:
        self._handles = list(handles)

    def undo(self) -> None:
        """Undo them, the last first."""
        while self._handles:
            self._handles.pop().undo()


_ABSENT = object()
_thread = threading.get_ident
_clock = time.perf_counter_ns
_is_compiling = torch.compiler.is_dynamo_compiling


def opaque(function: Any, *, callees: bool) -> Any:
    """Keep Dynamo from compiling this function's frames, and with `callees` all that it calls.

    In a step that torch.compile could not take whole, the calls between its graphs run under Dynamo: it would try
    to compile us there, and break graphs on what we do.
    """
    try:
        from torch._C._dynamo import eval_frame

        skip, default = eval_frame._FrameAction.SKIP, eval_frame._FrameAction.DEFAULT
        strategy = eval_frame._FrameExecStrategy(skip, skip if callees else default)
        eval_frame.set_code_exec_strategy(function.__code__, strategy)
    except (ImportError, AttributeError):
        pass  # an older torch: more graph breaks, and nothing worse
    return function


def _around(
    original: Callable[..., Any],
    cell: Cell,
    before: Listener,
    after: Ending,
    failed: Failing,
    rarely: bool,
    to_recorder: bool,
) -> Callable[..., Any]:
    hears_before, hears_after = before is not ignore, after is not ignore

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        # First, and alone on its line: while Dynamo traces, nothing below this is part of the graph.
        if _is_compiling():
            return original(*args, **kwargs)
        recorder = cell.recorder
        # What `listens` says, without a call of it at every event; below, what `listen` does.
        if recorder.thread != _thread() and not cell.listens():
            return original(*args, **kwargs)
        subject = recorder if to_recorder else cell.run
        weight = recorder.weight
        if hears_before and (weight or not rarely or recorder.ledger.late is not None):
            began = _clock() if weight else 0
            try:
                before(subject, args, kwargs)
            except Exception as error:  # noqa: BLE001
                cell.broken(error)
            if weight:
                recorder.spent_ns += (_clock() - began) * weight
        try:
            result = original(*args, **kwargs)
        except BaseException as error:
            hide_this_frame(error)
            if failed is not ignore and cell.run is not None:
                listen(cell.run, failed, subject, args, error)
            raise
        if hears_after:
            began = _clock() if weight else 0
            try:
                after(subject, args, kwargs, result)
            except Exception as error:  # noqa: BLE001
                cell.broken(error)
            if weight:
                recorder.spent_ns += (_clock() - began) * weight
        return result

    opaque(before, callees=True)
    opaque(after, callees=True)
    opaque(wrapper, callees=False)
    return wrapper


def listen(run: Run, listener: Callable[..., None], *arguments: Any) -> None:
    """Call a listener, keep its errors from the user's loop, and put its time on loopkit's account.

    The hot path writes this out instead: a frame here would cost, and make the stack deeper in timed updates, where
    every call site would then have to be walked to anew.
    """
    weight = run.recorder.weight
    began = _clock() if weight else 0
    try:
        listener(*arguments)
    except Exception as error:  # noqa: BLE001
        run.broken(error)
    finally:
        if weight:
            run.recorder.spent_ns += (_clock() - began) * weight


opaque(listen, callees=True)


def hide_this_frame(error: BaseException) -> None:
    """Drop the wrapper's own entry from a traceback that passes through it."""
    traceback = error.__traceback__
    if traceback is not None and traceback.tb_next is not None:
        error.__traceback__ = traceback.tb_next
