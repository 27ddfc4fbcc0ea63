"""What a saved object holds, read from its shape: which of its parts are states of models, optimizers, schedulers.

Kept are names, counts and settings, and weak references to a few tensors, by which a part is known again when it is
put into something: its name may have changed by then, and so may the dict that holds it.
"""

from __future__ import annotations

import enum
import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from loopkit.schedule import Settings, settings_of

if TYPE_CHECKING:
    from loopkit.callsite import Site

_DEEPEST, _WIDEST = 3, 64  # levels and members of a saved object that are looked at
_SAMPLE = 4  # tensors of a part that are remembered
_READS = 16
_APART = ("params", "param_names", "lr", "initial_lr")  # of a parameter group


class PartKind(enum.StrEnum):
    """Whose state a part is."""

    MODEL = "model"
    OPTIMIZER = "optimizer"
    SCHEDULER = "scheduler"
    SCALER = "scaler"


@dataclass(frozen=True, slots=True)
class SavedPart:
    """One state in a saved object.

    Args:
        name: the key it stands under, such as "optimizer"; "" for the whole object.
        kind: whose state it is.
        progress: how far it has come: steps of an optimizer that remembers them, 1 of any other that remembers
            gradients, the position of a scheduler; else 0.
        size: parameters of an optimizer, tensors of a model.
        remembers: what an optimizer keeps of a parameter, such as "exp_avg".
        settings: of a scheduler, or of an optimizer's groups with the rate each began with.
    """

    name: str
    kind: PartKind
    progress: float = 0.0
    size: int = 0
    remembers: frozenset[str] = frozenset()
    settings: Settings = ()


@dataclass(eq=False)
class ReadCheckpoint:
    """A saved object that `torch.load` returned, and what became of its parts.

    Attributes:
        site: where it was read.
        file: names the file or buffer it came from.
        parts: what it holds.
        counters: names of its whole numbers, such as "epoch".
        restored: the parts that were put into something, each with that, weakly.
        loads: where that was, in order.
        model: the module that its weights were put into; None where none was, or once that is gone.
        whole: all the weights of that module came from it, and none was left over.
        continued: an object with the state of an optimizer was saved to the same file later.
    """

    site: Site
    file: str
    parts: tuple[SavedPart, ...]
    counters: tuple[str, ...]
    restored: dict[int, Callable[[], object]] = field(default_factory=dict)
    loads: list[Site] = field(default_factory=list)
    model: Callable[[], torch.nn.Module | None] = lambda: None
    whole: bool = False
    continued: bool = False


class Checkpoints:
    """Remembers the latest checkpoints that were read, and which of their parts were put into what.

    Args:
        bare: also those that hold weights alone.

    Attributes:
        reads: of those with the state of an optimizer or a scheduler.
    """

    def __init__(self, *, bare: bool = False) -> None:
        self._needs = {PartKind.OPTIMIZER, PartKind.SCHEDULER} | ({PartKind.MODEL} if bare else set())
        self.reads: list[ReadCheckpoint] = []
        self._tensors: dict[int, tuple[Callable[[], object], ReadCheckpoint, int]] = {}
        self._mappings: dict[int, tuple[ReadCheckpoint, int]] = {}

    def read(self, state: Any, file: str, site: Site) -> None:
        """`torch.load` returned an object."""
        found = list(_parts(state))
        parts = tuple(part for part, _ in found)
        if not any(part.kind in self._needs for part in parts):
            return
        self._tensors = {key: value for key, value in self._tensors.items() if value[0]() is not None}
        made = ReadCheckpoint(site, file, parts, tuple(_counters(state)))
        self.reads = [*self.reads[1 - _READS :], made]
        self._mappings = {key: value for key, value in self._mappings.items() if value[0] in self.reads}
        for i, (_, mapping) in enumerate(found):
            self._mappings[id(mapping)] = made, i
            for tensor in islice(_tensors(mapping), _SAMPLE):
                self._tensors[id(tensor)] = weakref.ref(tensor), made, i

    def put(self, owner: Any, state: Any, whole: bool, site: Site) -> ReadCheckpoint | None:
        """A state was put into its owner; one that cannot be told from others counts for all that it may be.

        Returns:
            The checkpoint, where it is one whose weights went into a module now.
        """
        kind = _kind_of(owner)
        found = self._source(state)
        for read, i in [found] if found is not None else self._any(kind):
            # What one of several parts was put into is not known to hold the others.
            read.restored[i] = weakref.ref(owner) if found is not None else _somewhere
            read.loads.append(site)
            if found is not None and isinstance(owner, torch.nn.Module):
                read.model, read.whole = weakref.ref(owner), whole
                return read
        return None

    def saved(self, state: Any, file: str) -> None:
        """An object was saved."""
        reads = [read for read in self.reads if read.file == file and read.restored]
        if reads and any(part.kind is PartKind.OPTIMIZER for part, _ in _parts(state)):
            for read in reads:
                read.continued = True

    def _source(self, state: Any) -> tuple[ReadCheckpoint, int] | None:
        for tensor in _tensors(state):
            known = self._tensors.get(id(tensor))
            if known is not None and known[0]() is tensor:
                return known[1:]
        known_mapping = self._mappings.get(id(state))
        if known_mapping is not None and known_mapping[0] in self.reads:
            return known_mapping
        return None

    def _any(self, kind: PartKind | None) -> Iterator[tuple[ReadCheckpoint, int]]:
        if kind is PartKind.MODEL:
            return
        for read in self.reads:
            for i, part in enumerate(read.parts):
                if part.kind is kind:
                    yield read, i


def _kind_of(owner: Any) -> PartKind | None:
    if isinstance(owner, torch.nn.Module):
        return PartKind.MODEL
    if isinstance(owner, torch.optim.Optimizer):
        return PartKind.OPTIMIZER
    if isinstance(owner, torch.optim.lr_scheduler.LRScheduler):
        return PartKind.SCHEDULER
    return PartKind.SCALER if isinstance(owner, torch.amp.GradScaler) else None


def _somewhere() -> bool:
    """Stands where a weak reference would."""
    return True


def file_named(file: Any) -> str:
    """A name for what was read or written: the path of a file; a buffer is known by its `id`."""
    with suppress(TypeError, ValueError):
        return os.path.abspath(os.fsdecode(os.fspath(file)))
    name = getattr(file, "name", None)
    return os.path.abspath(name) if isinstance(name, str) else f"<{type(file).__name__} {id(file)}>"


def part_of(optimizer: torch.optim.Optimizer) -> SavedPart:
    """What a live optimizer would be saved as; none of its hooks is called."""
    return _optimizer_part("", {"state": optimizer.state, "param_groups": optimizer.param_groups})


def saved_parts(state: Any) -> tuple[SavedPart, ...]:
    """The states within an object that is saved, outermost first."""
    return tuple(part for part, _ in _parts(state))


def _parts(state: Any, name: str = "", depth: int = 0) -> Iterator[tuple[SavedPart, Any]]:
    """The states within an object, outermost first."""
    if isinstance(state, list | tuple) and depth < _DEEPEST:
        for each in state[:_WIDEST]:
            yield from _parts(each, name, depth + 1)
    if not isinstance(state, Mapping):
        return
    part = _part(name, state)
    if part is not None:
        yield part, state
    elif depth < _DEEPEST:
        for key, value in islice(state.items(), _WIDEST):
            yield from _parts(value, str(key), depth + 1)


def _part(name: str, state: Mapping[Any, Any]) -> SavedPart | None:
    if isinstance(state.get("param_groups"), list) and isinstance(state.get("state"), Mapping):
        return _optimizer_part(name, state)
    if "_schedulers" in state or (
        "last_epoch" in state and {"_step_count", "base_lrs", "num_bad_epochs"} & set(state)
    ):
        position = state.get("last_epoch", 0)
        progress = float(position) if isinstance(position, int | float) else 0.0
        return SavedPart(name, PartKind.SCHEDULER, progress, settings=settings_of(state))
    if {"scale", "growth_factor"} <= set(state):
        return SavedPart(name, PartKind.SCALER)
    tensors = sum(isinstance(value, torch.Tensor) for value in state.values())
    if tensors and all(isinstance(key, str) for key in state) and 10 * tensors >= 9 * len(state):
        return SavedPart(name, PartKind.MODEL, size=tensors)
    return None


def _optimizer_part(name: str, state: Mapping[Any, Any]) -> SavedPart:
    groups = [group for group in state["param_groups"] if isinstance(group, Mapping)]
    kept = [each for each in state["state"].values() if isinstance(each, Mapping)]
    settings: list[tuple[str, object]] = []
    for i, group in enumerate(groups):
        plain = settings_of({key: value for key, value in group.items() if key not in _APART})
        rate = group.get("initial_lr", group.get("lr"))
        settings += [(f"{i}.{key}", value) for key, value in plain]
        settings.append((f"{i}.lr", float(rate) if isinstance(rate, int | float) else None))
    return SavedPart(
        name,
        PartKind.OPTIMIZER,
        max(map(_steps, kept), default=0.0),
        sum(len(group.get("params", ())) for group in groups),
        frozenset(str(key) for each in kept[:1] for key in each),
        tuple(settings),
    )


def _steps(kept: Mapping[Any, Any]) -> float:
    """Steps that an optimizer remembers of a parameter. A count on a device is not read, and counts as one."""
    steps = kept.get("step")
    if isinstance(steps, int | float):
        return float(steps)
    if isinstance(steps, torch.Tensor) and steps.is_cpu and steps.numel() == 1:
        return float(steps)
    return float(any(isinstance(value, torch.Tensor) for value in kept.values()))


def _tensors(state: Any) -> Iterator[torch.Tensor]:
    """Tensors that tell a state from others: not counts of steps, which may be shared or made anew."""
    if isinstance(state, Mapping):
        for value in state.values():
            if isinstance(value, torch.Tensor) and value.dim():
                yield value
            elif isinstance(value, Mapping):
                yield from _tensors(value)


def _counters(state: Any) -> Iterator[str]:
    if isinstance(state, Mapping):
        for key, value in islice(state.items(), _WIDEST):
            if isinstance(key, str) and type(value) is int:
                yield key
