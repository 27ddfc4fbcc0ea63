"""A kept `state_dict()` that changed with the weights."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple

import torch

from loopkit import Confidence, Finding, Ledger, Run, Severity, Site, hookimpl

_KEPT = 256
_SAMPLE = 2


class BestStateAliased:
    """A `state_dict()` was kept as a copy of the weights, and is the weights themselves.

    What it looks for
        A `state_dict()` of a module that is put back into it, by `load_state_dict`, after the weights have changed,
        while all its tensors are still those of the module: what is restored is what is there. Also one that is
        written to a file whose name says "best", after the weights have changed.

    Why that hurts
        The best weights were never kept: those of the last step are evaluated, saved or trained on instead. Restoring
        the first weights for each fold, or the trained ones after an evaluation of averaged weights, does nothing.

    A loop that has it
        if loss < best_loss:
            best_loss, best = loss, model.state_dict()
        ...
        model.load_state_dict(best)

    The repair
        `best = copy.deepcopy(model.state_dict())`, or save it to a file at once. `dict.copy()`, and `.cpu()` on the
        CPU, do not copy tensors.

    Left alone
        States saved at once, deep copies, clones, copies on another device; a state put into another module, or back
        before anything has changed; a live state that is written to a file again and again.

    What it costs
        When a state is taken or loaded, a look at two of its tensors; at all of them where it turns out to be old.
    """

    rule = "best-state-aliased"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._taken: dict[int, _Taken] = {}
        self._loads: dict[int, int] = {}

    @hookimpl
    def state_taken(self, run: Run, owner: torch.nn.Module, state: Any, site: Site) -> None:
        """Remember two of its tensors."""
        if len(self._taken) >= _KEPT:
            alive = [(key, each) for key, each in self._taken.items() if each.tensor() is not None]
            self._taken = dict(alive[-_KEPT // 2 :])
        for tensor in islice(_tensors(state), _SAMPLE):
            self._taken.pop(id(tensor), None)
            self._taken[id(tensor)] = _Taken(
                weakref.ref(tensor), tensor._version, run.steps, id(owner), self._loads.get(id(owner), 0), site
            )

    @hookimpl
    def state_loaded(self, run: Run, owner: Any, state: Any, site: Site) -> Iterator[Finding]:
        """Whether it is old, and what is there already."""
        if not isinstance(owner, torch.nn.Module) or not isinstance(state, Mapping):
            return
        taken = self._old(run, state, owner)
        self._loads[id(owner)] = self._loads.get(id(owner), 0) + 1
        if taken is not None and taken.owner == id(owner) and _is_all_live(owner, state):
            seen = (
                f"the state_dict() of {type(owner).__name__} taken at {taken.site.place}, "
                f"{run.steps - taken.steps} updates ago, is put back at {site.place}: its {len(state)} tensors are "
                "the module's own, and changed with them"
            )
            yield self._finding(run, taken, site, type(owner).__name__, seen, self.severity, self.confidence)

    @hookimpl
    def state_saved(self, run: Run, state: Any, file: Any, site: Site) -> Iterator[Finding]:
        """Whether what is called the best is the latest."""
        name = ""
        with suppress(TypeError, ValueError):
            name = os.path.basename(os.fsdecode(os.fspath(file)))
        if "best" not in name.lower() or not isinstance(state, Mapping):
            return
        for part in (state, *state.values()):
            taken = self._old(run, part) if isinstance(part, Mapping) else None
            if taken is not None:
                seen = (
                    f"the state_dict() taken at {taken.site.place} is written to {name} {run.steps - taken.steps} "
                    "updates later: its tensors are those of the module, and changed with them"
                )
                yield self._finding(run, taken, site, name, seen, Severity.WARNING, Confidence.FACT)
                return

    def _old(self, run: Run, state: Mapping[Any, Any], owner: torch.nn.Module | None = None) -> _Taken | None:
        """Where a state was taken whose tensors have changed since; it has just been loaded if there is an owner."""
        for tensor in islice(_tensors(state), _SAMPLE):
            taken = self._taken.get(id(tensor))
            if taken is None or taken.tensor() is not tensor:
                continue
            # `load_state_dict` has just written each tensor onto itself, which counts once; fused steps do not.
            changed = tensor._version > taken.version + (owner is not None) or _is_fused(run, owner)
            # What was written into the state by hand was written into the module, as may be meant.
            if changed and (run.steps > taken.steps or self._loads.get(taken.owner, 0) > taken.loads):
                return taken
            if owner is not None:
                self._taken[id(tensor)] = taken._replace(version=tensor._version)
        return None

    def _finding(
        self, run: Run, taken: _Taken, site: Site, subject: str, seen: str, severity: Severity, confidence: Confidence
    ) -> Finding:
        return Finding(
            rule=self.rule,
            severity=severity,
            confidence=confidence,
            place=taken.site.place,
            places={"taken": taken.site.place, "used": site.place},
            subject=subject,
            seen=seen,
            why="state_dict() returns the live tensors: nothing was kept, the weights are those of the last step",
            remedy="copy.deepcopy(model.state_dict()), or torch.save it at once",
            evidence={
                "taken_at_step": taken.steps,
                "used_at_step": run.steps,
                "taken_frames": [str(each) for each in taken.site.chain],
                "used_frames": [str(each) for each in site.chain],
            },
        )


class _Taken(NamedTuple):
    """A tensor of a state: its version then, how many steps and loads there had been, of which module, and where."""

    tensor: Callable[[], object]
    version: int
    steps: int
    owner: int
    loads: int
    site: Site


def _tensors(state: Any) -> Iterator[torch.Tensor]:
    """The floating-point tensors of a state: counts, such as those of BatchNorm, change on their own."""
    if isinstance(state, Mapping):
        for value in state.values():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                yield value


def _is_all_live(owner: torch.nn.Module, state: Mapping[Any, Any]) -> bool:
    """Whether every tensor of a state lies where the module's own of that name does."""
    own = dict(owner.named_parameters(remove_duplicate=False)) | dict(owner.named_buffers(remove_duplicate=False))
    for name, value in state.items():
        if isinstance(value, torch.Tensor) and value.numel():
            live = own.get(name)
            if live is None or not value.data_ptr() or live.data_ptr() != value.data_ptr():
                return False
    return bool(own)


def _is_fused(run: Run, owner: torch.nn.Module | None) -> bool:
    """Whether an optimizer steps a module's parameters without a trace in their version counters."""
    own = set(map(id, owner.parameters())) if owner is not None else set()
    optimizers = [each.optimizer() for each in run.instrument(Ledger).owners()]
    groups = [group for each in optimizers if each is not None for group in each.param_groups]
    return any(group.get("fused") and own & set(map(id, group["params"])) for group in groups)
