"""A checkpoint of which a part was not put back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
    SchedulerReading,
    Severity,
    Site,
    StepReading,
    Update,
    code_of,
    file_named,
    functions_around,
    hookimpl,
    keys_read,
    part_of,
)

_WHY_OPTIMIZER = "the optimizer steps without its moments, as at the beginning: the loss jumps at each resume"
_WHY_SCHEDULER = "the schedule warms up and decays a second time, for weights that are trained"


class ResumeStateInconsistent:
    """Training goes on from a checkpoint, and of the states in it only some were put back.

    What it looks for
        All weights of a model come from a checkpoint that also holds the state of an optimizer or a scheduler, and
        training goes on with an optimizer or scheduler of the same kind and settings that begins at 0. It is a proof
        where one of the two was restored and the other was not. Where only the weights were, it is a warning if
        training continues what was saved: the script reads the counter of the checkpoint (`checkpoint["epoch"]`), or
        goes on saving to the same file; else info.

    Why that hurts
        Adam begins without its moments, so the first updates are as large as those of fresh weights; a schedule that
        begins again warms up and decays a second time. The loss jumps at each resume.

    A loop that has it
        checkpoint = torch.load("last.pt")
        model.load_state_dict(checkpoint["model"])
        for epoch in range(checkpoint["epoch"], epochs):
            train_one_epoch(model, optimizer)

    The repair
        `optimizer.load_state_dict(checkpoint["optimizer"])` and `scheduler.load_state_dict(checkpoint["scheduler"])`
        beside the model's.

    Left alone
        Another optimizer, other settings or another rate, which a new task has; a new head, or weights loaded in
        part; evaluation; optimizers that had stepped before, as when the best weights are brought back; schedules
        fast-forwarded or made with `last_epoch=`; a script that can restore the part and did not this time (info);
        states without memory, as of plain SGD; averaged weights.

    What it costs
        A look at each object that is saved or loaded. In the first update after that, a look at the optimizer.
    """

    rule = "resume-state-inconsistent"
    severity = Severity.WARNING
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._before: dict[ReadCheckpoint, dict[int, int]] = {}
        self._resumed: dict[ReadCheckpoint, _Resumed] = {}

    @hookimpl
    def state_read(self, run: Run, state: object, file: object, site: Site) -> None:
        """Note what it holds."""
        run.instrument(Checkpoints).read(state, file_named(file), site)

    @hookimpl
    def state_loaded(self, run: Run, owner: object, state: object, outcome: object, site: Site) -> None:
        """Note which part went where."""
        book = run.instrument(Checkpoints)
        if not book.reads:
            return
        whole = not (getattr(outcome, "missing_keys", None) or getattr(outcome, "unexpected_keys", None))
        read = book.put(owner, state, whole, site)
        if read is not None and read not in self._before:
            self._before[read] = {each.number: each.steps for each in run.instrument(Ledger).owners()}
            run.tell_next()

    @hookimpl
    def state_saved(self, run: Run, state: object, file: object) -> None:
        """Note which checkpoints are continued."""
        book = run.instrument(Checkpoints)
        if book.reads:
            book.saved(state, file_named(file))

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> None:
        """Note which optimizer goes on with the weights of a checkpoint, and how far it has come itself."""
        for read in self._before:
            if read not in self._resumed:
                self._note(run, update, read)

    def _note(self, run: Run, update: Update, read: ReadCheckpoint) -> None:
        model = read.model()
        if model is None or not read.whole:
            return
        loaded = {id(each) for each in model.parameters() if each.requires_grad}
        for event, step in update.steps():
            owner = run.instrument(Ledger).numbered(step.number)
            optimizer = owner.optimizer() if owner is not None else None
            if owner is None or optimizer is None or not loaded or loaded - set(map(id, owner.parameters())):
                continue
            cold = not self._before[read].get(step.number)
            live = part_of(optimizer)
            ahead = {serial for serial, advances in _before(run, update, event).items() if advances > 1}
            restored = {i for i, holder in read.restored.items() if holder() is not None}
            cold = cold and live.progress <= owner.steps
            self._resumed[read] = _Resumed(read, event, step, live, cold, ahead, restored)

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Judge each checkpoint that training went on from."""
        for resumed in self._resumed.values():
            verdict = resumed.verdict(run.schedules() + run.schedules(unused=True))
            if verdict is not None:
                yield self._finding(resumed, *verdict)

    def _finding(
        self, resumed: _Resumed, lost: list[SavedPart], kept: list[SavedPart], severity: Severity
    ) -> Finding:
        read, site = resumed.read, resumed.event.site
        place = (read.loads or [read.site])[-1].place
        names = " and ".join(f'"{part.name}" (the {part.kind} at {part.progress:g})' for part in lost)
        kinds = " and ".join(part.kind for part in lost)
        restored = " and ".join(["the model", *(f"the {part.kind}" for part in kept)])
        return Finding(
            rule=self.rule,
            severity=severity,
            confidence=self.confidence if kept else Confidence.FACT,
            place=place,
            places={"read": read.site.place, **({"step": site.place} if site is not None else {})},
            subject=resumed.step.optimizer,
            seen=f"the checkpoint read at {read.site.place} holds {names}; {restored} went on from it, and the "
            f"{kinds} of this run, of the same kind and settings, began at 0"
            + ("; what it had been put into was gone by then" if resumed.thrown_away(lost) else ""),
            why=_WHY_OPTIMIZER if lost[0].kind is PartKind.OPTIMIZER else _WHY_SCHEDULER,
            remedy="put back every state that was saved: "
            + ", ".join(f'{part.kind}.load_state_dict(checkpoint["{part.name}"])' for part in lost),
            evidence={
                "lost": [part.name for part in lost],
                "restored": [part.name for part in kept],
                "progress": [part.progress for part in lost],
                "continued": read.continued,
                "counters": list(read.counters),
                "load_frames": [str(each) for each in (read.loads or [read.site])[-1].chain],
            },
        )


@dataclass
class _Resumed:
    """A checkpoint that training went on from.

    Args:
        event, step: the first step seen after it.
        live: the optimizer after that step.
        cold: it had not stepped before, and remembers no more steps than it executed in this run.
        ahead: schedulers that had advanced before it stepped.
        restored: the parts that were in use then: what they were put into was not gone.
    """

    read: ReadCheckpoint
    event: Event
    step: StepReading
    live: SavedPart
    cold: bool
    ahead: set[int]
    restored: set[int]

    def verdict(self, schedules: list[SchedulerReading]) -> tuple[list[SavedPart], list[SavedPart], Severity] | None:
        """What was lost, what was kept beside the weights, and how severe it is."""
        lost: list[SavedPart] = []
        kept: list[SavedPart] = []
        for i, part in enumerate(self.read.parts):
            if i in self.restored:
                if part.kind in (PartKind.OPTIMIZER, PartKind.SCHEDULER):
                    kept.append(part)
            elif (part.kind is PartKind.OPTIMIZER and self._is_this_optimizer(part)) or (
                part.kind is PartKind.SCHEDULER and self._begins_again(part, schedules)
            ):
                lost.append(part)
        if not lost:
            return None
        site = self.read.site
        tree = code_of(site.place.file)
        if not self.thrown_away(lost) and (tree is None or any(part.name in keys_read([tree]) for part in lost)):
            return lost, kept, Severity.INFO  # the script can restore it, or has not been read
        optimizer_lost = any(part.kind is PartKind.OPTIMIZER for part in lost)
        around = keys_read(functions_around(site)) if site.framework is None else set()
        goes_on = self.read.continued or any(name in around for name in self.read.counters)
        sure = bool(kept) or self.thrown_away(lost) or (optimizer_lost and goes_on)
        return lost, kept, Severity.WARNING if sure else Severity.INFO

    def thrown_away(self, lost: list[SavedPart]) -> bool:
        """Whether a state had been put into something that was gone when training went on."""
        return any(self.read.parts[i] in lost for i in self.read.restored if i not in self.restored)

    def _is_this_optimizer(self, part: SavedPart) -> bool:
        """Whether a saved state would fit the optimizer that steps now, which has begun without it."""
        live = self.live
        same = (part.size, part.remembers, part.settings) == (live.size, live.remembers, live.settings)
        return self.cold and part.progress > 0 and same

    def _begins_again(self, part: SavedPart, schedules: list[SchedulerReading]) -> bool:
        """Whether a schedule of the same settings drives the optimizer that steps now, and began at 0."""
        return part.progress > 1 and any(
            reading.life.driven == self.step.number
            and reading.life.serial not in self.ahead
            and not reading.life.started
            and reading.life.settings == part.settings
            and bool(part.settings)
            for reading in schedules
        )


def _before(run: Run, update: Update, step: Event) -> dict[int, int]:
    """How often each scheduler had advanced before a step."""
    advances = {reading.life.serial: reading.life.advances for reading in run.schedules()}
    for event in update.events[update.events.index(step) :]:
        if isinstance(event.reading, SchedulerReading) and event.reading.life.serial in advances:
            advances[event.reading.life.serial] -= 1
    return advances
