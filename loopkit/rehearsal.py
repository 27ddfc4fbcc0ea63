"""Trying things on a copy of the model, with a batch it was given: for probes alone, which are asked for.

The run itself notices nothing: the copy has its own weights and buffers, inputs are cloned, and the state of every
random generator is put back.
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from loopkit.callsite import CallSites

if TYPE_CHECKING:
    from loopkit.finding import Place
    from loopkit.run import Run


class Take:
    """One model, one batch.

    Attributes:
        model: the copy, in the mode the model was in.
        args, kwargs: what it was called with, cloned.
        batch: the batch that was loaded last, as it is; None without a loader.
        place: the user's line.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        batch: Any,
        place: Place | None = None,
    ) -> None:
        self.model = model
        self.args = args
        self.kwargs = kwargs
        self.batch = batch
        self.place = place

    def inputs(self) -> list[Tensor]:
        """The tensors it was called with."""
        return list(tensors((self.args, self.kwargs)))

    def outputs(self, change: Callable[[Tensor], Tensor] = lambda given: given) -> list[Tensor]:
        """The tensors that the copy answers with, without gradients.

        Args:
            change: applied to each tensor it is given.
        """
        with torch.no_grad():
            answer = self.model(*mapped(self.args, change), **mapped(self.kwargs, change))
        return [each for each in tensors(answer) if each.is_floating_point()]


class Rehearsal:
    """Hands each probe its take, once."""

    def __init__(self) -> None:
        self._had: set[str] = set()
        self._batch: Any = None

    def loaded(self, batch: Any) -> None:
        """A batch came from a loader; the one before is forgotten."""
        self._batch = batch

    @contextmanager
    def take(
        self, run: Run, rule: str, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Iterator[Take | None]:
        """The first training forward, to be tried on; None at all others.

        Where the model cannot be copied the rule is noted as not checked. What the body raises is noted too.
        """
        if rule in self._had or not torch.is_grad_enabled() or not _trains(module):
            yield None
            return
        self._had.add(rule)
        place = run.instrument(CallSites).outside_plugins()
        try:
            take = Take(copied(module), mapped(args, _clone), mapped(kwargs, _clone), self._batch, place)
        except Exception as error:  # noqa: BLE001 - a model may refuse in any way
            run.could_not_check(rule, f"the model cannot be copied: {_short(error)}")
            yield None
            return
        with kept_random_state():
            try:
                yield take
            except Exception as error:  # noqa: BLE001
                run.could_not_check(rule, f"the copy failed: {_short(error)}")


def copied(module: torch.nn.Module) -> torch.nn.Module:
    """A deep copy whose hooks are torch's own alone: a hook of the user's might count or log."""
    made = copy.deepcopy(module)
    for each in made.modules():
        for hooks in (each._forward_hooks, each._forward_pre_hooks, each._backward_hooks, each._backward_pre_hooks):
            for key, hook in list(hooks.items()):
                if not str(getattr(hook, "__module__", type(hook).__module__)).startswith("torch."):
                    del hooks[key]
    return made


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Put back what is drawn inside: torch's generators, NumPy's global one, Python's."""
    numpy = sys.modules.get("numpy")
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    before = random.getstate(), numpy.random.get_state() if numpy is not None else None
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(before[0])
        if numpy is not None and before[1] is not None:
            numpy.random.set_state(before[1])


def tensors(container: Any) -> Iterator[Tensor]:
    """The tensors in nested lists, tuples, dicts and the outputs of models."""
    if isinstance(container, Tensor):
        yield container
    elif isinstance(container, Mapping):
        for value in container.values():
            yield from tensors(value)
    elif isinstance(container, (list, tuple)):
        for value in container:
            yield from tensors(value)


def mapped(container: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same container with each tensor changed; what is neither is handed on as it is."""
    if isinstance(container, Tensor):
        return change(container)
    if isinstance(container, dict):
        changed = {key: mapped(value, change) for key, value in container.items()}
        return changed if type(container) is dict else _like(container, changed)
    if isinstance(container, tuple) and hasattr(container, "_fields"):
        return type(container)(*(mapped(value, change) for value in container))
    if isinstance(container, (list, tuple)):
        return type(container)([mapped(value, change) for value in container])
    return container


def _like(container: Any, changed: dict[Any, Any]) -> Any:
    made = copy.copy(container)
    made.update(changed)
    return made


def _clone(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def _trains(module: torch.nn.Module) -> bool:
    return module.training and any(parameter.requires_grad for parameter in module.parameters())


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else 'no message'}"
