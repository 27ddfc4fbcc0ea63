"""Training and evaluation mode: who put which module into it, and what was done in that mode.

Looked at where it costs little: at calls of `train()` and `eval()`, at the first two forwards of a row without
gradients (of the 1st, 2nd, 4th, 8th … row of a module), and at backwards whose graph is walked.
"""

from __future__ import annotations

import os
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from loopkit.calls import Called, Row, evaluated, holds, tensor_of
from loopkit.modal import batches_seen, is_norm, modal, rate, trainable
from loopkit.models import unwrapped
from loopkit.modereading import Draw, Evaluated, ForwardReading, FrozenNorm, ModeChange, Recomputed, TrainReading
from loopkit.norms import Norms, Recounts, is_blank, sizes
from loopkit.untouched import Untouched

if TYPE_CHECKING:
    from loopkit.graphwalk import Walk
    from loopkit.recorder import Recorder

_FORWARD, _TRAINING, _CHANGE, _BACKWARD = (
    17,
    18,
    19,
    20,
)  # for the cache of call sites; events of an update have smaller numbers
_KEPT = 256
"""Readings kept for the checks to ask for."""
_LOOKED_AT = 2
"""Forwards of a row."""
_SAMPLED = 4
"""Parameters of a model whose values are compared from look to look."""


class Ears(Protocol):
    """Hears dropouts while a forward is looked at."""

    def open(self) -> None:
        """From now on."""

    def close(self) -> list[Draw]:
        """No more; what was heard is returned."""


class Modes:
    """Remembers modes, and reads forwards without gradients.

    Attributes:
        ears: set while somebody wants to know; else nothing is looked at.
        error: why nothing is looked at any more, or None.
    """

    def __init__(self) -> None:
        self.ears: Ears | None = None
        self.recorder: Recorder | None = None
        self.error: Exception | None = None
        self._changes: dict[int, ModeChange] = {}
        self._fresh_changes: list[ModeChange] = []  # nothing was done yet in the mode
        self._rows: dict[int, Row] = {}
        self._open: tuple[Row, dict[str, tuple[nn.Module, int]]] | None = None
        self._forwards: deque[ForwardReading] = deque(maxlen=_KEPT)
        self._trainings: deque[TrainReading] = deque(maxlen=_KEPT)
        self._forward: dict[int, Called] = {}
        self._evaluated: list[Evaluated] = []
        self._numbers = 0
        self._norms = Norms()
        self._recounts = Recounts()
        self._untouched = Untouched()

    # -- what checks ask ---------------------------------------------------------------------------------

    def forwards(self, after: int, *, final: bool = False) -> list[ForwardReading]:
        """Readings with a larger number than `after`, of rows that a backward has ended; if `final`, of all."""
        backwards = self._recorder().backwards
        return [each for each in self._forwards if each.number > after and (final or each.backwards < backwards)]

    def trainings(self, after: int) -> list[TrainReading]:
        """Readings with a larger number than `after`."""
        return [each for each in self._trainings if each.number > after]

    def trains_on(self, reading: ForwardReading) -> bool:
        """Whether the loader of a reading's batch is by now known to train."""
        return self._recorder().sources.has_trained(reading.loader)

    def evaluated_with_gradients(self, *, final: bool = False) -> list[Evaluated]:
        """Evaluations with gradients on since this was last asked; if `final`, also those that go on."""
        told, self._evaluated = self._evaluated, []
        last = self._changes.values() if final else ()
        return told + [each for change in last for each in evaluated(change, self._recorder())]

    def recomputed(self) -> list[Recomputed]:
        """Batch normalisations whose statistics moved in a backward, since this was last asked."""
        return self._recounts.told()

    def frozen_norms(self) -> list[FrozenNorm]:
        """Frozen batch normalisations whose statistics follow the data. Reads the device, once."""
        return self._norms.told()

    # -- what the taps tell ------------------------------------------------------------------------------

    def changed(self, module: nn.Module) -> None:
        """`train()` or `eval()` was called on a module."""
        recorder = self._recorder()
        key = id(module)
        before = self._changes.get(key)
        if before is not None and before.module() is not module:
            before = None
        change = ModeChange(
            module=weakref.ref(module),
            name=type(module).__name__,
            training=module.training,
            site=recorder.sites.here(_CHANGE),
            backwards=recorder.backwards,
            evaluations=recorder.evaluations,
            forwards=recorder.forwards,
            steps=recorder.steps,
            ends_evaluation=module.training
            and before is not None
            and (before.first == "evaluated" if not before.training else before.ends_evaluation and not before.first),
        )
        if before is not None and module.training:
            self._evaluated += evaluated(before, recorder)
        if before is None and len(self._changes) >= _KEPT:
            del self._changes[next(iter(self._changes))]
        self._changes.pop(key, None)
        self._changes[key] = change
        self._fresh_changes = [each for each in self._fresh_changes if each is not before][-8:]
        self._fresh_changes.append(change)

    def began(self, module: nn.Module, args: tuple[Any, ...]) -> bool:
        """An outermost module is called without gradients. Returns whether its end is to be told."""
        try:
            return self.error is None and self._began(unwrapped(module), args, self._recorder())
        except Exception as error:  # noqa: BLE001
            self._fail(error)
            return False

    def ended(self) -> None:
        """That call ended, or raised."""
        if self._open is None:
            return
        (row, versions), self._open = self._open, None
        draws = self.ears.close() if self.ears is not None else []
        reading = row.reading
        if reading is None:
            return
        moved = [(name, norm) for name, (norm, version) in versions.items() if batches_seen(norm) != version]
        reading.moved = (*reading.moved, *(name for name, _ in moved if name not in reading.moved))
        reading.recalibrates |= any(getattr(norm, "momentum", 0) is None for _, norm in moved)
        reading.draws += draws

    def trains(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """An outermost module is called with gradients, in an update whose graphs are walked."""
        if self.ears is None or self.error is not None:
            return
        module, given = unwrapped(module), tensor_of(args)
        batch = given.shape[0] if given is not None and given.dim() else 0
        site = self._recorder().sites.here(_TRAINING)
        if module.training:
            self._norms.meet(module)
        self._forward[id(module)] = Called(weakref.ref(module), module.training, site, batch)

    def sent(self, walk: Walk) -> None:
        """A walked loss is sent backward: the modules it trains were in these modes."""
        for key, called in list(self._forward.items()):
            root = called.module()
            if root is None:
                del self._forward[key]
            elif any(id(each) in walk.leaves for each in root.parameters()):
                self._trained(root, called, walk)
                self._resolve(root, "trained")

    def stepped(self) -> None:
        """An optimizer stepped. What comes after may move statistics too: a state that is loaded, or averaged."""
        self._recounts.after(self._recorder())

    def update_closed(self) -> None:
        """What was called in it is not what the next one trains."""
        self._forward.clear()
        self._recounts.forget()

    # -- inside ------------------------------------------------------------------------------------------

    def _recorder(self) -> Recorder:
        assert self.recorder is not None
        self.recorder.wake()
        return self.recorder

    def _began(self, root: nn.Module, args: tuple[Any, ...], recorder: Recorder) -> bool:
        self.ended()
        row = self._row(root)
        switched = bool(self._fresh_changes) and self._resolve(root, "evaluated")
        if switched or row.backwards != recorder.backwards:
            if row.backwards != recorder.backwards:
                row.since, row.steps = recorder.steps - row.steps, recorder.steps
            row.backwards, row.calls, row.reading, row.given = recorder.backwards, 0, None, None
            row.rows += 1
        row.calls += 1
        if row.reading is not None:
            self._compare(row, args, recorder)
        if row.calls > _LOOKED_AT or row.rows & (row.rows - 1):
            return False
        self._look(root, row, args, recorder)
        return True

    def _row(self, root: nn.Module) -> Row:
        row = self._rows.get(id(root))
        if row is None or row.module() is not root:
            self._rows.pop(id(root), None)
            if len(self._rows) >= _KEPT:
                del self._rows[next(iter(self._rows))]
            row = self._rows[id(root)] = Row(root)
        return row

    def _resolve(self, root: nn.Module, what: str) -> bool:
        """Something was done with a module: note it with the changes that had put it in its mode, if any."""
        found = False
        for change in list(self._fresh_changes):
            module = change.module()
            if module is None or holds(module, root):
                self._fresh_changes.remove(change)
                # A backward may have come that was not walked.
                change.first = "trained" if self._recorder().backwards > change.backwards else what
                found = True
        return found

    def _compare(self, row: Row, args: tuple[Any, ...], recorder: Recorder) -> None:
        reading = row.reading
        assert reading is not None
        reading.calls = row.calls
        if not reading.awake and not reading.draws:
            return
        given = tensor_of(args)
        same = row.given is not None and given is not None and row.given() is given
        if same or (recorder.batches == row.batches and recorder.source and reading.fresh):
            reading.repeated = True
        else:
            reading.batches += 1
        self._remember(row, given, recorder)

    def _remember(self, row: Row, given: torch.Tensor | None, recorder: Recorder) -> None:
        row.given = weakref.ref(given) if given is not None else None
        row.batches = recorder.batches

    def _look(self, root: nn.Module, row: Row, args: tuple[Any, ...], recorder: Recorder) -> None:
        assert self.ears is not None
        awake = [(name, layer) for name, layer in modal(root) if layer.training]
        if row.reading is None:
            row.looks += 1
            row.reading = self._read(root, row, tuple(name for name, _ in awake), recorder)
            self._forwards.append(row.reading)
            self._remember(row, tensor_of(args), recorder)
        row.reading.still = row.reading.still and not any(each.training for each in root.modules())
        versions = {name: (layer, batches_seen(layer)) for name, layer in awake if is_norm(layer)}
        self._open = row, versions
        self.ears.open()

    def _read(self, root: nn.Module, row: Row, awake: tuple[str, ...], recorder: Recorder) -> ForwardReading:
        owned = {id(each) for owner in self._recorder().ledger.owners() for each in owner.parameters()}
        parameters = list(root.parameters())
        is_owned = any(id(each) in owned or id(each) in self._recorder().ledger.once_owned for each in parameters)
        change = self._change_of(root)
        self._numbers += 1
        return ForwardReading(
            number=self._numbers,
            model=type(root).__name__,
            site=recorder.sites.here(_FORWARD),
            training=root.training,
            still=True,
            awake=awake,
            static=not is_owned and bool(awake) and self._is_static(parameters, recorder),
            looks=row.looks,
            owned=is_owned,
            optimizers=len(self._recorder().ledger.owners()),
            steps=recorder.steps,
            since=row.since,
            backwards=row.backwards,
            fresh=recorder.batches > self._recorder().ledger.last_batch(),
            loader=recorder.sources.key(recorder.source) if recorder.source else (),
            told=change is not None
            and change.training
            and change.backwards == row.backwards
            and not change.ends_evaluation,
            ever_told=change is not None and change.training and change.module() is root,
        )

    def _is_static(self, parameters: list[nn.Parameter], recorder: Recorder) -> bool:
        """Whether samples of its parameters kept their values since the first look."""
        sampled = [each for each in parameters if not each.is_meta][:_SAMPLED]
        asked = [self._untouched.ask(each, recorder.history.updates) for each in sampled]
        return bool(sampled) and min(walks for _, walks in asked) > 1 and self._untouched.confirm(sampled)

    def _change_of(self, root: nn.Module) -> ModeChange | None:
        """The last call of `train()` or `eval()` that reached a module."""
        for change in reversed(self._changes.values()):
            module = change.module()
            if module is not None and holds(module, root):
                return change
        return None

    def _trained(self, root: nn.Module, called: Called, walk: Walk) -> None:
        recorder, training = self._recorder(), called.training
        layers = list(trainable(root))
        asleep = [(name, layer) for name, layer in layers if not layer.training]
        owned = {id(each) for owner in self._recorder().ledger.owners() for each in owner.parameters()}
        self._numbers += 1
        self._trainings.append(
            TrainReading(
                number=self._numbers,
                model=type(root).__name__,
                training=training,
                forward=called.site,
                backward=recorder.sites.here(_BACKWARD),
                steps=recorder.steps,
                owned=any(id(each) in owned and id(each) in walk.leaves for each in root.parameters()),
                asleep=tuple(name for name, _ in asleep),
                awake=tuple(name for name, layer in layers if layer.training),
                blank=sum(is_norm(layer) and is_blank(layer) for _, layer in asleep) if not training else 0,
                change=self._change_of(root),
                norms=tuple(sizes(walk, root)),
                dropouts=tuple((name, p) for name, layer in layers if (p := rate(layer)) and layer.training),
                given=called.batch,
            )
        )
        if training:
            self._norms.look(root, recorder.steps)
            norms = [(name, layer) for name, layer in layers if is_norm(layer)]
            self._recounts.before(norms, recorder.sites.here(_BACKWARD), recorder)

    def _fail(self, error: Exception) -> None:
        """An unheard-of kind of module costs these checks, not the others."""
        self.error = error
        self._open = None
        if self.ears is not None:
            self.ears.close()
        if os.environ.get("LOOPKIT_RAISE"):
            raise error
