"""States: `torch.save` → `state_saved`, `torch.load` → `state_read`, `state_dict` of a module → `state_taken`,
`load_state_dict` → `state_loaded`. Installed only while somebody hears them.

Datasets read their samples with `torch.load`, in threads too: what is no mapping is let pass unseen, and a thread
that only reads files does not become the one that is watched.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from threading import get_ident
from typing import Any

import torch
from torch.optim import lr_scheduler

from loopkit.run import Run
from loopkit.taps.patch import Cell, Handle, Tap, Taps, covered, hide_this_frame, listen

_SAVE, _READ, _TAKE, _LOAD = range(17, 21)
"""Stand for these calls among those whose last site is remembered; events of an update have smaller numbers."""
_MOST = 256  # files read that are told of; a dataset has more


def install(run: Run) -> Handle:
    """Listen to saving and loading."""
    reads = _Reads()
    schedulers = [each for each in vars(lr_scheduler).values() if inspect.isclass(each)]
    return Taps(
        _Files("save", run, _saved),
        _Files("load", run, reads.after),
        Tap(torch.nn.Module, "state_dict", run, after=_taken),
        Tap(torch.nn.Module, "load_state_dict", run, after=_loaded),
        *_optimizers(run),
        *(
            Tap(each, "load_state_dict", run, after=_loaded)
            for each in schedulers
            if issubclass(each, lr_scheduler.LRScheduler) and "load_state_dict" in vars(each)
        ),
        Tap(torch.amp.GradScaler, "load_state_dict", run, after=_loaded),
    )


class _Files:
    """A wrapper around `torch.save` or `torch.load` that is heard on any thread until one is known to train."""

    def __init__(self, name: str, run: Run, after: Callable[..., None]) -> None:
        self._name = name
        self._cell = cell = Cell(run)
        self._original = original = getattr(torch, name)

        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            try:
                result = original(*args, **kwargs)
            except BaseException as error:
                hide_this_frame(error)
                raise
            run = cell.run
            if run is not None and not run.busy and run.thread in (None, get_ident()):
                listen(run, after, run, args, kwargs, result)
            return result

        self._wrapper = wrapper
        setattr(torch, name, wrapper)

    def undo(self) -> None:
        """Put the original back."""
        self._cell.run = None
        if self.uncovered:
            setattr(torch, self._name, self._original)
        else:
            covered.append(self)

    @property
    def uncovered(self) -> bool:
        """Whether nobody has patched on top."""
        return getattr(torch, self._name) is self._wrapper


class _Reads:
    """Counts the files read."""

    def __init__(self) -> None:
        self._count = 0

    def after(self, run: Run, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        if isinstance(result, Mapping) and self._count < _MOST:
            self._count += 1
            file = args[0] if args else kwargs.get("f")
            run.emit("state_read", state=result, file=file, site=run.recorder.sites.here(_READ))


def _saved(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    state = args[0] if args else kwargs.get("obj")
    file = args[1] if len(args) > 1 else kwargs.get("f")
    run.emit("state_saved", state=state, file=file, site=run.recorder.sites.here(_SAVE))


def _taken(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any], state: Any) -> None:
    # Called for each child too, with the dict to write into.
    if kwargs.get("destination") is None and len(args) == 1:
        run.emit("state_taken", owner=args[0], state=state, site=run.recorder.sites.here(_TAKE))


def _loaded(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    state = args[1] if len(args) > 1 else kwargs.get("state_dict")
    run.emit("state_loaded", owner=args[0], state=state, outcome=result, site=run.recorder.sites.here(_LOAD))


def _optimizers(run: Run) -> list[Handle]:
    """What is loaded replaces the names of an optimizer's parameters, so these are read before."""
    names: list[list[str]] = []

    def before(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        names[:] = [list(group.get("param_names", ())) for group in args[0].param_groups]

    def after(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        _loaded(run, args, kwargs, list(names))

    return [Tap(torch.optim.Optimizer, "load_state_dict", run, before, after)]
