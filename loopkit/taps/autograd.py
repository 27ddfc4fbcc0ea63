"""`Tensor.backward` and `torch.autograd.backward` → `before_backward`, `after_backward`.

`Tensor.backward` calls `torch.autograd.backward` through the module, so one patch serves both, and the tensor
method itself, by which Dynamo knows a backward, stays as it is.
"""

from __future__ import annotations

from typing import Any

import torch

from loopkit.ledger import sequence_number
from loopkit.recorder import Recorder
from loopkit.run import Run
from loopkit.taps.patch import Handle, Tap, Taps


def install(run: Run) -> Handle:
    """Listen to backward, and note which part of a graph is made under saved-tensor hooks."""
    hooks = torch.autograd.graph.saved_tensors_hooks
    return Taps(
        _backward(run),
        Tap(hooks, "__enter__", run, after=_hooks_began),
        Tap(hooks, "__exit__", run, _hooks_end),
    )


def _backward(run: Run) -> Handle:
    if run.heard & {"before_backward", "after_backward"}:
        return Tap(torch.autograd, "backward", run, _before, _after, _failed)
    quick = Recorder.backward_began, Recorder.backward_ended, Recorder.backward_ended
    return Tap(torch.autograd, "backward", run, *quick, to_recorder=True)


def _loss(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0] if args else kwargs.get("tensors")


def _before(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    inside = run.recorder.in_backward
    run.recorder.backward_began(args, kwargs)  # first: whoever takes times does not want this in them
    if "before_backward" in run.heard and not inside:
        run.emit("before_backward", loss=_loss(args, kwargs))


def _after(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    run.recorder.backward_ended()
    if "after_backward" in run.heard and not run.recorder.in_backward:
        run.emit("after_backward", loss=_loss(args, kwargs))


def _hooks_began(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    run.recorder.losses.graph.hooks_began(sequence_number())


def _hooks_end(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    run.recorder.losses.graph.hooks_ended(sequence_number())


def _failed(run: Run, *_: object) -> None:
    run.recorder.backward_ended()
