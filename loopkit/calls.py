"""Calls of outermost modules: the last one with gradients, and rows of those without."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from loopkit.modereading import Evaluated

if TYPE_CHECKING:
    from loopkit.callsite import Site
    from loopkit.modereading import ForwardReading, ModeChange
    from loopkit.recorder import Recorder


class Called(NamedTuple):
    """The last call of a module with gradients; `batch` is the first dimension of what it was given, 0 if unknown."""

    module: Callable[[], nn.Module | None]
    training: bool
    site: Site
    batch: int


class Row:
    """Forwards of one module without gradients and with no backward in between; and how many such rows there were."""

    __slots__ = ("backwards", "batches", "calls", "given", "looks", "module", "reading", "rows", "since", "steps")

    def __init__(self, module: nn.Module) -> None:
        self.module = weakref.ref(module)
        self.backwards = -1
        self.rows = self.calls = self.looks = 0
        self.steps = self.since = 0
        self.batches = 0
        self.given: Callable[[], object] | None = None
        self.reading: ForwardReading | None = None


def holds(module: nn.Module, inner: nn.Module) -> bool:
    """Whether a module is, or contains, the other one."""
    return module is inner or any(each is inner for each in module.modules())


def tensor_of(args: tuple[Any, ...]) -> torch.Tensor | None:
    """The first tensor that a module was given."""
    return next((each for each in args if isinstance(each, torch.Tensor)), None)


def evaluated(change: ModeChange, recorder: Recorder) -> list[Evaluated]:
    """What was done in the mode of a change until now, if that was an evaluation with gradients on."""
    module, forwards = change.module(), recorder.forwards - change.forwards
    idle = (change.backwards, change.evaluations) == (recorder.backwards, recorder.evaluations)
    if change.training or module is None or not change.steps or forwards < 2 or not idle:
        return []
    owned = {id(each) for owner in recorder.ledger.owners() for each in owner.parameters()}
    if not any(each.requires_grad and id(each) in owned for each in module.parameters()):
        return []
    return [Evaluated(change.name, change.site, forwards, change.steps)]
