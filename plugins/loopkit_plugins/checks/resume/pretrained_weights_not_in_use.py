"""Weights that were read and are not in the model."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from loopkit import Confidence, Finding, Run, Severity, Site, hookimpl

_KEPT = 16
_SAMPLE = 3
_SHOWN = 3


class PretrainedWeightsNotInUse:
    """Weights were loaded, and the model does not have them: no names matched.

    What it looks for
        `load_state_dict(strict=False)` that found none of the module's names in the state; or that missed names
        which the state has under one and the same prefix more or less ("module.", "_orig_mod.", "encoder."). And,
        after weights were read from a file, a module that is given its own `state_dict()` back with nothing of the
        file in it: the filter that should have picked the matching names has picked none.

    Why that hurts
        Nothing is raised, and training begins from random weights: the loss is that of a model that was never
        trained before.

    A loop that has it
        state = torch.load("from_ddp.pt")  # the keys begin with "module."
        model.load_state_dict(state, strict=False)

    The repair
        Take the prefix away, `{k.removeprefix("module."): v for k, v in state.items()}`, and load with `strict=True`,
        or look at what `load_state_dict` returns.

    Left alone
        New heads, adapters, and other parts that have no counterpart in the file; a state of few other names.

    What it costs
        A look at names when a module's state is loaded, at a few tensors when a file is read.
    """

    rule = "pretrained-weights-not-in-use"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._reads: list[_Weights] = []
        self._taken: list[Callable[[], object]] = []

    @hookimpl
    def state_read(self, run: Run, state: Any, site: Site) -> None:
        """Remember a few tensors of each mapping of tensors in it."""
        for part in (state, *(state.values() if isinstance(state, Mapping) else ())):
            tensors = list(_tensors(part))
            if len(tensors) > 1:
                refs = [weakref.ref(each) for each in (*tensors[:_SAMPLE], *tensors[-_SAMPLE:])]
                self._reads = [*self._reads[1 - _KEPT :], _Weights(site, refs, len(tensors), run.steps)]

    @hookimpl
    def state_taken(self, state: Any) -> None:
        """Remember a tensor of it."""
        self._taken = [*self._taken[1 - _KEPT :], *(weakref.ref(each) for each in islice(_tensors(state), 1))]

    @hookimpl
    def state_loaded(self, run: Run, owner: Any, state: Any, outcome: Any, site: Site) -> Iterator[Finding]:
        """Compare names and tensors at once."""
        if not isinstance(owner, torch.nn.Module) or not isinstance(state, Mapping) or not state:
            return
        if not self._reads and not any(outcome or ()):
            return
        given = {id(value) for value in _tensors(state)}
        unused = [read for read in self._reads if not read.is_in(given)]
        source = next((read for read in self._reads if read not in unused), None)
        self._reads = unused
        names = dict(owner.named_parameters(remove_duplicate=False))
        missing = [name for name in getattr(outcome, "missing_keys", None) or () if name in names]
        surplus = list(getattr(outcome, "unexpected_keys", None) or ())
        prefix, explained = _prefix(missing, surplus)
        few = 2 * explained < len(names)
        if names and explained >= max(2, len(missing) / 2):
            how = f'in the state they have the prefix "{prefix}"' if prefix[:1] != "-" else f"without {prefix[1:]!r}"
            told = f"{explained} of {len(names)} parameters were not found: {how}"
        elif names and len(missing) == len(names) and surplus:
            told = f"none of its {len(names)} parameters is in the state, which has {_some(surplus)}"
        elif unused and unused[-1].steps == run.steps and self._is_own(state, names):
            source = unused.pop()
            told = f"the {source.size} tensors read at {source.site.place} are not in what was loaded, its own state"
        else:
            return
        yield self._finding(owner, told, site, source, Severity.INFO if explained and few else self.severity)

    def _is_own(self, state: Mapping[Any, Any], names: Mapping[str, torch.Tensor]) -> bool:
        """Whether a `state_dict()` gives each parameter the tensor that it has."""
        first = next(_tensors(state), None)
        return any(first is known() for known in self._taken) and all(
            isinstance(given := state.get(name), torch.Tensor) and given.data_ptr() == own.data_ptr()
            for name, own in names.items()
        )

    def _finding(
        self, owner: torch.nn.Module, told: str, site: Site, source: _Weights | None, severity: Severity
    ) -> Finding:
        name = type(owner).__name__
        return Finding(
            rule=self.rule,
            severity=severity,
            confidence=self.confidence,
            place=site.place,
            places={"load": site.place, **({"read": source.site.place} if source is not None else {})},
            subject=name,
            seen=f"weights were loaded into {name}, and {told}",
            why="nothing is raised, and these parameters keep the random values they were made with",
            remedy='take the prefix away ({k.removeprefix("module."): v ...}), and load with strict=True',
            evidence={"module": name, "load_frames": [str(each) for each in site.chain]},
        )


@dataclass(eq=False)
class _Weights:
    """Weights that were read from a file: where, a few of their tensors, how many, after how many steps."""

    site: Site
    tensors: Sequence[Callable[[], object]]
    size: int
    steps: int

    def is_in(self, given: set[int]) -> bool:
        """Whether any of them is among what is loaded, or gone: converted, perhaps."""
        alive = [tensor for known in self.tensors if (tensor := known()) is not None]
        return len(alive) < len(self.tensors) or any(id(tensor) in given for tensor in alive)


def _tensors(state: Any) -> Iterator[torch.Tensor]:
    if isinstance(state, Mapping):
        for value in islice(state.values(), 100_000):
            if isinstance(value, torch.Tensor) and value.dim():
                yield value


def _prefix(missing: list[str], surplus: list[str]) -> tuple[str, int]:
    """The prefix that explains most of what is missing, and how much; "-name." where the module has it."""
    wanted, counts = set(missing), dict[str, int]()
    for name in surplus:
        parts = name.split(".")
        for i in range(1, min(4, len(parts))):
            if ".".join(parts[i:]) in wanted:
                key = ".".join(parts[:i]) + "."
                counts[key] = counts.get(key, 0) + 1
    there = set(surplus)
    for name in missing:
        head, _, rest = name.partition(".")
        if rest in there:
            counts[f"-{head}."] = counts.get(f"-{head}.", 0) + 1
    best = max(counts, key=counts.__getitem__, default="")
    return best, counts.get(best, 0)


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
