"""Optimizers: a step → `before_step`, `after_step`; clearing → `before_zero_grad`, `after_zero_grad`.

Steps are heard through torch's own global hooks, which fire for the innermost optimizer only where it really
steps: Accelerate's wrapper, whose `step` does nothing inside a window, never gets there.
"""

from __future__ import annotations

from threading import get_ident
from time import perf_counter_ns
from typing import Any

import torch
from torch.optim import optimizer as torch_optimizer

from loopkit.recorder import Recorder
from loopkit.run import Run
from loopkit.taps.patch import Cell, Handle, Tap, Taps, opaque

_is_compiling = torch.compiler.is_dynamo_compiling
_CONSTRUCTION = -2  # for the cache of call sites; no event


def install(run: Run) -> Handle:
    """Listen to every optimizer."""
    return Taps(
        _Steps(run),
        # Constructors call this; so the gradients of the first backward have an owner. A wrapper around a public
        # name there would shift the frames that torch's warnings about parameter groups count.
        Tap(torch.optim.Optimizer, "_patch_step_function", run, _constructed),
        _clearing(run),
        Tap(torch.nn.Module, "zero_grad", run, _before_module_clear, _after_module_clear),
    )


def _clearing(run: Run) -> Handle:
    if run.heard & {"before_zero_grad", "after_zero_grad"}:
        return Tap(torch.optim.Optimizer, "zero_grad", run, _before_clear, _after_clear)
    quick = Recorder.meets, Recorder.zeroed
    return Tap(torch.optim.Optimizer, "zero_grad", run, *quick, rarely=True, to_recorder=True)


def _constructed(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    recorder = run.recorder
    recorder.meets(args, kwargs)
    passes = recorder.sources.training, recorder.learned
    recorder.ledger.constructed(args[0], recorder.sites.here(_CONSTRUCTION), passes)


class _Steps:
    """The global step hooks."""

    def __init__(self, run: Run) -> None:
        self._cell = Cell(run)
        self._hears_began, self._hears_end = "before_step" in run.heard, "after_step" in run.heard
        self._handles = [
            torch_optimizer.register_optimizer_step_pre_hook(self._before),
            torch_optimizer.register_optimizer_step_post_hook(self._after),
        ]

    def undo(self) -> None:
        """Remove them."""
        self._cell.close()
        for handle in self._handles:
            handle.remove()

    def _before(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[Any, Any]) -> None:
        if _is_compiling():
            return
        cell = self._cell
        recorder = cell.recorder
        if recorder.thread != get_ident() and not cell.listens():
            return
        weight = recorder.weight
        began = perf_counter_ns() if weight else 0
        try:  # as in `patch.py`: without a frame that only keeps time
            closure = None
            if kwargs or len(args) > 1:  # args[0] is the optimizer itself
                closure = args[1] if len(args) > 1 else kwargs.get("closure")
            if self._hears_began and cell.run is not None:
                cell.run.emit("before_step", optimizer=optimizer, closure=closure)
            recorder.step_began(optimizer, closure is not None and callable(closure))
        except Exception as error:  # noqa: BLE001
            cell.broken(error)
        if weight:
            recorder.spent_ns += (perf_counter_ns() - began) * weight

    def _after(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[Any, Any]) -> None:
        if _is_compiling():
            return
        cell = self._cell
        recorder = cell.recorder
        if recorder.thread != get_ident() and not cell.listens():
            return
        weight = recorder.weight
        began = perf_counter_ns() if weight else 0
        try:
            if recorder.step_ended(optimizer) and self._hears_end and cell.run is not None:
                cell.run.emit("after_step", optimizer=optimizer)
        except Exception as error:  # noqa: BLE001
            cell.broken(error)
        if weight:
            recorder.spent_ns += (perf_counter_ns() - began) * weight


opaque(_Steps._before, callees=False)
opaque(_Steps._after, callees=False)


def _before_clear(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    run.recorder.meets(args, kwargs)
    run.emit("before_zero_grad", owner=args[0])


def _before_module_clear(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    run.recorder.look_before_change()  # which optimizers' parameters it holds is not known
    if "before_zero_grad" in run.heard:
        run.emit("before_zero_grad", owner=args[0])


for listener in (Recorder.step_began, Recorder.step_ended, Run.emit):
    opaque(listener, callees=True)


def _after_clear(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    run.recorder.zeroed(args, kwargs)
    if "after_zero_grad" in run.heard:
        run.emit("after_zero_grad", owner=args[0])


def _after_module_clear(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    run.recorder.module_cleared()
    if "after_zero_grad" in run.heard:
        run.emit("after_zero_grad", owner=args[0])
