"""Optimizers: a step → `before_step`, `after_step`; clearing → `before_zero_grad`, `after_zero_grad`.

Steps are heard through torch's own global hooks, which fire for the innermost optimizer only where it really
steps: Accelerate's wrapper, whose `step` does nothing inside a window, never gets there.
"""

from __future__ import annotations

from threading import get_ident
from typing import Any

import torch
from torch.optim import optimizer as torch_optimizer

from loopkit.recorder import Recorder
from loopkit.run import Run
from loopkit.taps.patch import Cell, Handle, Tap, Taps, listen, opaque


def install(run: Run) -> Handle:
    """Listen to every optimizer."""
    before = _before_clear if "before_zero_grad" in run.heard else _meet
    return Taps(
        _Steps(run),
        # Constructors call this; so the gradients of the first backward have an owner. A wrapper around a public
        # name there would shift the frames that torch's warnings about parameter groups count.
        Tap(torch.optim.Optimizer, "_patch_step_function", run, _meet),
        Tap(torch.optim.Optimizer, "zero_grad", run, before, _after_clear, rarely=before is _meet),
        Tap(torch.nn.Module, "zero_grad", run, _before_module_clear, _after_module_clear),
    )


class _Steps:
    """The global step hooks."""

    def __init__(self, run: Run) -> None:
        self._cell = Cell(run)
        self._handles = [
            torch_optimizer.register_optimizer_step_pre_hook(self._before),
            torch_optimizer.register_optimizer_step_post_hook(self._after),
        ]

    def undo(self) -> None:
        """Remove them."""
        self._cell.run = None
        for handle in self._handles:
            handle.remove()

    def _before(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[Any, Any]) -> None:
        if torch.compiler.is_dynamo_compiling():
            return
        run = self._cell.run
        if run is not None and not run.busy and (run.thread == get_ident() or run.listens()):
            # args[0] is the optimizer itself.
            closure = args[1] if len(args) > 1 else kwargs.get("closure")
            if run.history.weight or "before_step" in run.heard:
                listen(run, _before_step, optimizer, closure)
            else:  # as in `patch.py`: without a frame that only keeps time
                try:
                    run.recorder.step_began(optimizer, callable(closure))
                except Exception as error:  # noqa: BLE001
                    run.broken(error)

    def _after(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[Any, Any]) -> None:
        if torch.compiler.is_dynamo_compiling():
            return
        run = self._cell.run
        if run is not None and not run.busy and (run.thread == get_ident() or run.listens()):
            if run.history.weight or "after_step" in run.heard:
                listen(run, _after_step, optimizer)
            else:
                try:
                    run.recorder.step_ended(optimizer)
                except Exception as error:  # noqa: BLE001
                    run.broken(error)


opaque(_Steps._before, callees=False)
opaque(_Steps._after, callees=False)


def _before_step(run: Run, optimizer: torch.optim.Optimizer, closure: Any) -> None:
    if "before_step" in run.heard:
        run.emit("before_step", optimizer=optimizer, closure=closure)
    run.recorder.step_began(optimizer, callable(closure))


def _after_step(run: Run, optimizer: torch.optim.Optimizer) -> None:
    if run.recorder.step_ended(optimizer) and "after_step" in run.heard:
        run.emit("after_step", optimizer=optimizer)


def _before_clear(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    _meet(run, args, kwargs)
    run.emit("before_zero_grad", owner=args[0])


def _before_module_clear(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    run.recorder.look_before_change()  # which optimizers' parameters it holds is not known
    if "before_zero_grad" in run.heard:
        run.emit("before_zero_grad", owner=args[0])


def _meet(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """An optimizer older than the watch: the gradients it is about to clear are still there to be seen."""
    if not run.recorder.ledger.knows(args[0]):
        run.recorder.ledger.owner(args[0])


for listener in (_before_step, _after_step, Recorder.step_began, Recorder.step_ended):
    opaque(listener, callees=True)


def _after_clear(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    to_none = args[1] if len(args) > 1 else kwargs.get("set_to_none", True)
    run.recorder.cleared(args[0], bool(to_none))
    if "after_zero_grad" in run.heard:
        run.emit("after_zero_grad", owner=args[0])


def _after_module_clear(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    run.recorder.cleared(None, False)
    if "after_zero_grad" in run.heard:
        run.emit("after_zero_grad", owner=args[0])
