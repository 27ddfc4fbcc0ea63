"""A checkpoint that lacks a state without which training cannot go on as it was."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from loopkit import (
    Checkpoints,
    Confidence,
    Event,
    Finding,
    Ledger,
    PartKind,
    ReadCheckpoint,
    Run,
    SavedPart,
    Scales,
    SchedulerReading,
    Severity,
    Site,
    Update,
    code_of,
    file_named,
    functions_around,
    hookimpl,
    keys_read,
    part_of,
    saved_parts,
)

_FILES = 64
_KINDS = {Optimizer: PartKind.OPTIMIZER, LRScheduler: PartKind.SCHEDULER, GradScaler: PartKind.SCALER}
_NAMED = {PartKind.OPTIMIZER: "optim", PartKind.SCHEDULER: "sched", PartKind.SCALER: "scaler"}
_WHY = {
    PartKind.OPTIMIZER: "a resumed optimizer begins without its moments, as at the beginning: the loss jumps",
    PartKind.SCHEDULER: "a resumed schedule begins at 0: it warms up and decays again, for weights that are trained",
    PartKind.SCALER: "a resumed GradScaler begins at its first scale: steps are skipped until it has come down again",
}


class CheckpointIncomplete:
    """What is written to go on from lacks the state of the scheduler, the GradScaler or the optimizer.

    What it looks for
        Checkpoints with the state of an optimizer, and so made to go on from, in a run that has a schedule under way
        or a GradScaler in use, of which no file of the run holds the state: info. It is a warning where the run
        itself goes on from such a file, with the same settings, and the schedule begins at 0. So does an optimizer
        whose state was not saved at all, where the script takes its counter from the file (`checkpoint["epoch"]`).

    Why that hurts
        Nothing fails when training is resumed. The schedule warms up and decays a second time; the GradScaler begins
        with a scale that overflows; Adam takes its first steps without moments.

    A loop that has it
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}, "last.pt")

    The repair
        Save the `state_dict()` of all that has one: model, optimizer, scheduler and GradScaler.

    Left alone
        Weights alone, for use or as the best ones; a checkpoint whose other states go to files of their own, as HF
        Trainer's and Accelerate's do; schedulers that are put to their place by `last_epoch` or told the epoch at
        each advance; rates that have not moved yet; optimizers without memory, as plain SGD; what is written by
        something else than `torch.save`, where the script shows it.

    What it costs
        A look at each object that is saved or loaded. In the first update after a load, a look at the optimizer.
    """

    rule = "checkpoint-incomplete"
    severity = Severity.WARNING
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._book = Checkpoints(bare=True)
        self._kept: set[PartKind] = set()  # what the files that were written or read hold
        self._saves: dict[str, _Save] = {}
        self._resumed: dict[ReadCheckpoint, _Resumed] = {}
        self._before: dict[ReadCheckpoint, dict[int, int]] = {}
        self._back: set[PartKind] = set()  # what was put back, from wherever

    @hookimpl
    def state_saved(self, run: Run, state: object, file: object, site: Site) -> None:
        """Note what it holds, and what the run has then."""
        parts = saved_parts(state)
        holds = {part.kind for part in parts} | _whole(state)
        self._kept |= holds
        if not holds & {PartKind.OPTIMIZER, PartKind.MODEL}:
            return
        name = file_named(file)
        if name not in self._saves and len(self._saves) >= _FILES:
            return
        stepped = [owner.optimizer() for owner in run.instrument(Ledger).owners() if owner.steps]
        optimizers = [part_of(each) for each in stepped if each is not None]
        made = _Save(site, holds, _moved(run), run.instrument(Scales).in_use(), optimizers)
        earlier = self._saves.get(name)
        if earlier is None or not earlier.lacks() or made.lacks():
            self._saves[name] = made

    @hookimpl
    def state_read(self, run: Run, state: object, file: object, site: Site) -> None:
        """Note what it holds."""
        self._book.read(state, file_named(file), site)
        self._kept |= {part.kind for part in saved_parts(state)} | _whole(state)

    @hookimpl
    def state_loaded(self, run: Run, owner: object, state: object, outcome: object, site: Site) -> None:
        """Note what was put back."""
        if not self._book.reads:
            return
        self._back |= {kind for each, kind in _KINDS.items() if isinstance(owner, each)}
        whole = not (getattr(outcome, "missing_keys", None) or getattr(outcome, "unexpected_keys", None))
        read = self._book.put(owner, state, whole, site)
        if read is not None and read not in self._before:
            self._before[read] = {each.number: each.steps for each in run.instrument(Ledger).owners()}
            run.tell_next()

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> None:
        """Note with which optimizer training goes on from a checkpoint, and how far its schedules had come."""
        for read in [read for read in self._before if read not in self._resumed]:
            model = read.model()
            loaded = {id(each) for each in model.parameters() if each.requires_grad} if model is not None else set()
            for event, step in update.steps():
                owner = run.instrument(Ledger).numbered(step.number)
                optimizer = owner.optimizer() if owner is not None else None
                if owner is None or optimizer is None or not read.whole or not loaded:
                    continue
                if not loaded - set(map(id, owner.parameters())) and not self._before[read].get(step.number):
                    live = part_of(optimizer)
                    cold = live.progress <= owner.steps
                    self._resumed[read] = _Resumed(read, step.number, live, cold, _ahead(run, update, event))

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Judge what training went on from, and then what was written."""
        readings = run.schedules() + run.schedules(unused=True)
        told: set[PartKind] = set()
        for resumed in self._resumed.values():
            save = self._saves.get(resumed.read.file)
            kind = resumed.lost(self._back, self._kept, readings, save)
            if kind is not None and kind not in told:
                told.add(kind)
                yield self._of_resume(resumed, kind, save)
        for kind in (PartKind.SCHEDULER, PartKind.SCALER):
            saves = [each for each in self._saves.values() if kind in each.lacks()]
            if saves and kind not in told | self._kept | self._back and not _is_shown(saves[-1].site, kind):
                yield self._of_save(saves[-1], kind)

    def _of_resume(self, resumed: _Resumed, kind: PartKind, save: _Save | None) -> Finding:
        read = resumed.read
        put = (read.loads or [read.site])[-1].place
        written = f", as it was written at {save.site.place}," if save else ""
        return Finding(
            rule=self.rule,
            severity=self.severity if save else Severity.INFO,
            confidence=self.confidence if save else Confidence.FACT,
            place=save.site.place if save else put,
            places={"read": read.site.place, "load": put},
            subject=kind.value,
            seen=f"the checkpoint read at {read.site.place}{written} holds no state of the {kind}; training goes on "
            f"from it at {put}, and its {kind}" + (", of the same settings," if save else "") + " begins at 0",
            why=_WHY[kind],
            remedy=f"save {kind}.state_dict() beside the model's, and put it back",
            evidence={"lacks": kind.value, "counters": list(read.counters), "resumed": True},
        )

    def _of_save(self, save: _Save, kind: PartKind) -> Finding:
        state = "the GradScaler that is in use"
        if kind is PartKind.SCHEDULER:
            state = f"the {save.moved[0].scheduler} that had advanced {save.moved[0].life.advances} times"
        return Finding(
            rule=self.rule,
            severity=Severity.INFO,
            confidence=Confidence.FACT,
            place=save.site.place,
            subject=kind.value,
            seen=f"the checkpoint written at {save.site.place} holds the state of the optimizer, and not that of "
            f"{state}; no other file of this run holds it",
            why=_WHY[kind],
            remedy=f'add "{kind}": {kind}.state_dict() to what is saved',
            evidence={"lacks": kind.value, "resumed": False, "save_frames": [str(each) for each in save.site.chain]},
        )


@dataclass(frozen=True)
class _Save:
    """A checkpoint that was written, and what the run had then.

    Args:
        holds: the kinds of states in it.
        moved: the schedules that had moved a rate.
        scaled: a GradScaler was in use.
        optimizers: those that had stepped.
    """

    site: Site
    holds: set[PartKind]
    moved: list[SchedulerReading]
    scaled: bool
    optimizers: list[SavedPart]

    def lacks(self) -> set[PartKind]:
        """What a run needs to go on from it, if it is made for that, and does not find."""
        if PartKind.OPTIMIZER not in self.holds:
            return set()
        has = {PartKind.SCHEDULER: bool(self.moved), PartKind.SCALER: self.scaled}
        return {kind for kind in has if has[kind]} - self.holds


@dataclass(frozen=True)
class _Resumed:
    """A checkpoint that training went on from.

    Args:
        number, live: the optimizer that steps now, after its first step.
        cold: it remembers no more steps than it executed in this run.
        ahead: schedules that had advanced before it stepped.
    """

    read: ReadCheckpoint
    number: int
    live: SavedPart
    cold: bool
    ahead: set[int]

    def lost(
        self, back: set[PartKind], kept: set[PartKind], readings: list[SchedulerReading], save: _Save | None
    ) -> PartKind | None:
        """What was not saved and begins at 0, though training goes on with what was."""
        held = {part.kind for part in self.read.parts} | (save.holds if save is not None else set())
        around = keys_read(functions_around(self.read.site)) if self.read.site.framework is None else set()
        goes_on = any(name in around for name in self.read.counters)
        lives = [each.life for each in readings if each.life.driven == self.number]
        if PartKind.OPTIMIZER in held:
            if PartKind.OPTIMIZER not in back or PartKind.SCHEDULER in back | kept:
                return None
            fresh = [life for life in lives if life.serial not in self.ahead and not life.started]
            before = {each.life.settings for each in save.moved if each.life.settings} if save is not None else set()
            same = any(life.settings in before for life in fresh)
            if save is None:
                same = bool(fresh) and goes_on and not _is_shown(self.read.site, PartKind.SCHEDULER)
            return PartKind.SCHEDULER if same else None
        if PartKind.OPTIMIZER in back | kept or not (self.cold and self.live.remembers and goes_on):
            return None
        live = self.live
        same = save is None or any(
            (each.size, each.remembers, each.settings) == (live.size, live.remembers, live.settings)
            for each in save.optimizers
        )
        return PartKind.OPTIMIZER if same and live.progress else None


def _moved(run: Run) -> list[SchedulerReading]:
    """Schedules that have moved a rate, and are not told their position by the script."""
    alive = {owner.number for owner in run.instrument(Ledger).owners()}
    return [
        reading
        for reading in run.schedules()
        if reading.life.driven in alive
        and reading.life.rates
        and not {reading.life.rates} >= {reading.life.base_rates, reading.life.first_rates}
        and (not reading.explicit or reading.life.metrics)
    ]


def _ahead(run: Run, update: Update, step: Event) -> set[int]:
    """Schedules that had advanced more than once before a step."""
    later = [event.reading for event in update.events[update.events.index(step) :]]
    since = [reading.life.serial for reading in later if isinstance(reading, SchedulerReading)]
    lives = [reading.life for reading in run.schedules()]
    return {life.serial for life in lives if life.advances - since.count(life.serial) > 1}


def _whole(state: object) -> set[PartKind]:
    """The kinds of objects that were pickled whole."""
    members = list(state.values()) if isinstance(state, Mapping) else [state]
    return {kind for each in members for owner, kind in _KINDS.items() if isinstance(each, owner)}


def _is_shown(site: Site, kind: PartKind) -> bool:
    """Whether the script's code saves a state in another way, or puts a scheduler to its place by itself."""
    tree = code_of(site.place.file)
    nodes = list(ast.walk(tree)) if tree is not None else []
    if kind is PartKind.SCHEDULER and any(
        "last_epoch" in (getattr(node, "attr", ""), getattr(node, "arg", "")) for node in nodes
    ):
        return True
    taken = [
        ast.unparse(each.value) for each in nodes if isinstance(each, ast.Attribute) and each.attr == "state_dict"
    ]
    return any(_NAMED[kind] in each.lower() for each in taken)
