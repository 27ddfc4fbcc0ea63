"""Turns what the taps hear into the record of the current update, and knows which updates are new.

The hot path appends small tuples. When an update closes, its signature (the events without their numbers) is
looked up; only a new one, or one at its 2nd, 4th, 8th … occurrence, becomes an `Update` that checks get to see.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from loopkit.callsite import CallSites, Site
from loopkit.holdings import Owner
from loopkit.ledger import Cause, Ledger
from loopkit.reading import RawReading, read, told
from loopkit.row import Rows, row_of
from loopkit.update import Event, Kind, SchedulerReading, Update

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from loopkit.update import StepReading

LONGEST = 4096
"""Events kept of one update; a loop that never steps, or a very long window, must not grow without bound."""
_ALWAYS_TIMED, _TIMED_EVERY = 64, 16  # updates whose events are timed: reading the clock costs too
SIGNATURES = 4096
"""Signatures remembered; beyond that the oldest is forgotten, and would count as new again."""

Signature = tuple[int, ...]
"""An update without its numbers: one integer an event, packed from its kind, subject, call site and the shape of
its reading. Integers, because a signature is hashed at every update."""
_Scheduler = tuple[Callable[[], object], int, Owner | None]
_Raw = RawReading | tuple[Any, ...] | None

_KINDS = tuple(Kind)
_BATCH, _FORWARD, _EVALUATION, _BACKWARD, _CLIP, _UNSCALE, _STEP, _SKIP, _SCHEDULER, _ZERO_GRAD = range(len(_KINDS))


def _pack(kind: int, site: Site | None = None, subject: int = 0, shape: int = 0) -> int:
    number = 0 if site is None else site.number + 1
    return kind | min(subject, 255) << 4 | shape << 12 | number << 32


def _kind_of(code: int) -> Kind:
    return _KINDS[code & 15]


class Recorder:
    """What has happened since the last executed step, and how often each shape of update occurred.

    Args:
        deliver: called with each `Update` that checks should see, and its signature.
    """

    def __init__(self, sites: CallSites, ledger: Ledger, deliver: Callable[[Update, Signature], None]) -> None:
        self.sites = sites
        self.ledger = ledger
        self._rows = Rows()
        self.steps = 0
        self.updates = 0
        self.batches = 0
        self.backwards = 0
        self.forwards = 0
        self.evaluations = 0
        self.clears = 0
        self.in_backward = 0
        self.weight = 1  # how many events one that is timed stands for; 0: this one is not timed
        self.on_backward: Callable[[], None] | None = None  # called when no forward was heard, or while searching
        self.searching = False
        self._forwards_before = 0
        self.occurrences: dict[Signature, int] = {}
        self._deliver = deliver
        self._codes: list[int] = []
        self._details: list[tuple[Site | None, _Raw]] = []
        self._stepped = False
        self._truncated = False
        self._open: list[_OpenStep] = []
        self._inputs = 0
        self._input: Callable[[], object] = _nothing
        self._input_version = 0
        self._derived = False  # the input takes a gradient itself: an attack or a probe, not another batch
        self._schedulers: dict[int, _Scheduler] = {}
        self._site: Site | None = None
        self._prelude: set[int] = set()
        self._prelude_over = False

    # -- data and forward --------------------------------------------------------------------------------

    def batch(self) -> None:
        """A batch arrived."""
        if self._stepped and not self._open:
            self.close()
        self.batches += 1
        if not self._codes or self._codes[-1] != _BATCH:
            self._append(_BATCH)

    def forward_began(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The outermost module was called."""
        if self._stepped and not self._open:
            self.close()
        if not torch.is_grad_enabled():
            self.evaluations += 1
            self._evaluated()
            return
        self.forwards += 1
        self.ledger.forward()
        first = args[0] if args else next(iter(kwargs.values()), None)
        if not isinstance(first, torch.Tensor):
            first = _first_tensor(first)
        if first is None:
            self._inputs += 1
        elif self._input() is not first or self._input_version != _version(first):
            self._inputs += 1
            self._input, self._input_version = weakref.ref(first), _version(first)
        self._derived = first is not None and first.requires_grad
        if not self._codes or self._codes[-1] != _FORWARD:
            self._append(_FORWARD)

    def _evaluated(self) -> None:
        """A forward without gradients: a whole evaluation is one event, whatever its length."""
        codes = self._codes
        if codes and codes[-1] == _BATCH:
            codes.pop()
            self._details.pop()
        if not codes or codes[-1] != _EVALUATION:
            self._append(_EVALUATION)

    # -- backward and gradients --------------------------------------------------------------------------

    def backward_began(self) -> None:
        """Backward is about to add to gradients."""
        self.in_backward += 1
        if self.in_backward > 1:  # a reentrant checkpoint runs a backward inside the backward
            return
        if self._stepped and not self._open:
            self.close()
        site = self._site = self.sites.here()
        self.ledger.backward_began(site)
        self._append(_pack(_BACKWARD, site), site)
        self._prelude_over = True

    def backward_ended(self) -> None:
        """Backward returned, or raised with some gradients already written."""
        self.in_backward -= 1
        site = self._site
        if self.in_backward or site is None:
            return
        self._site = None
        self.backwards += 1
        self.ledger.backward_ended(site, self.batches, -1 if self._derived else self._inputs)
        if self.on_backward is not None and (self.searching or self.forwards == self._forwards_before):
            self.on_backward()
        self._forwards_before = self.forwards

    def look_before_change(self) -> None:
        """A clip, an unscale or a module's `zero_grad` comes: what changed by hand until now is not its doing."""
        if not self.in_backward:
            self.ledger.look_at_all(Cause.HAND)

    def cleared(self, optimizer: Optimizer | None, to_none: bool) -> None:
        """`zero_grad` of one optimizer, or (None) of a module, returned."""
        self.clears += 1
        site = self.sites.here()
        ledger = self.ledger
        if optimizer is not None and to_none:
            ledger.emptied(ledger.owner(optimizer), site)
        elif optimizer is not None:
            ledger.cleared([ledger.owner(optimizer)], site)
        elif not self.in_backward:
            ledger.cleared(ledger.owners(), site)
        self._opens_update(_ZERO_GRAD, site)
        self._append(_pack(_ZERO_GRAD, site), site)

    def clipped(self) -> None:
        """Gradients were clipped in place."""
        if not self.in_backward:
            self.ledger.excuse(self.ledger.owners())
        site = self.sites.here()
        self._append(_pack(_CLIP, site), site)

    def unscaled(self, optimizer: Optimizer) -> None:
        """A GradScaler unscaled one optimizer's gradients in place."""
        self.ledger.excuse([self.ledger.owner(optimizer)])
        site = self.sites.here()
        self._append(_pack(_UNSCALE, site), site)

    # -- steps -------------------------------------------------------------------------------------------

    def step_began(self, optimizer: Optimizer, closure: bool) -> None:
        """The real optimizer is about to step."""
        owner = self.ledger.owner(optimizer)
        # A step of this optimizer that is still open was left by an exception.
        while self._open and any(step.owner is owner for step in self._open):
            self._pop()
        if closure and self._stepped and not self._open:
            self.close()
        step = _OpenStep(id(optimizer), owner, closure, self.sites.here(), self._happened())
        step.sure = self.ledger.look_before_step(owner)
        if closure:
            self.ledger.closure_began()
        else:
            step.reading = self._read(step)
        if self._open:
            for outer in self._open:
                outer.wraps = True
        self._open.append(step)

    def step_ended(self, optimizer: Optimizer) -> bool:
        """The step was executed. Returns whether it counts: a wrapper around another's step does not."""
        while self._open and self._open[-1].key != id(optimizer):
            self._pop()
        if not self._open:
            return False
        step = self._pop()
        owner = step.owner
        if step.wraps:
            self.ledger.consume(owner, step.site)
            return False
        reading = step.reading
        if reading is None:
            # Lightning's manual optimization passes a closure that does nothing: a step like any other.
            step.closure = step.before != self._happened()
            reading = self._read(step)
        self.ledger.consume(owner, step.site)
        owner.steps += 1
        owner.offers += 1
        self.steps += 1
        self._append(_pack(_STEP, step.site, owner.number, reading.shape), step.site, reading)
        self._stepped = True
        return True

    def step_skipped(self, optimizer: Optimizer) -> None:
        """A GradScaler left the step out: its gradients count as used, and clearing them wipes nothing."""
        owner = self.ledger.owner(optimizer)
        owner.offers += 1
        site = self.sites.here()
        self.ledger.consume(owner, site)
        self._append(_pack(_SKIP, site, owner.number), site)

    def steps_of(self, optimizer: Optimizer) -> int:
        """Steps this optimizer has executed in this run."""
        return self.ledger.owner(optimizer).steps

    def _read(self, step: _OpenStep) -> RawReading:
        return read(
            step.owner,
            self.ledger,
            closure=step.closure,
            inside_backward=self.in_backward > 0,
            wraps=step.wraps,
            sure=step.sure,
        )

    def _happened(self) -> int:
        return self.forwards + self.evaluations + self.backwards + self.clears

    def _pop(self) -> _OpenStep:
        step = self._open.pop()
        if step.closure:
            self.ledger.closure_ended()
        return step

    def scheduler_stepped(self, scheduler: Any, explicit: bool) -> None:
        """A scheduler advanced."""
        known = self._schedulers.get(id(scheduler))
        if known is None or known[0]() is not scheduler:
            known = self._meet(scheduler)
        _, number, owner = known
        site = self.sites.here()
        offers = owner.offers if owner is not None else 0
        raw = (type(scheduler).__name__, number, owner, offers, getattr(scheduler, "last_epoch", None), explicit)
        self._opens_update(_SCHEDULER, site)
        self._append(_pack(_SCHEDULER, site, number, (offers == 0) + 2 * explicit), site, raw)

    def _meet(self, scheduler: Any) -> _Scheduler:
        dead = [key for key, (alive, _, _) in self._schedulers.items() if alive() is None]
        for key in dead:
            del self._schedulers[key]
        optimizer = _driven_by(scheduler)
        owner = self.ledger.owner(optimizer) if optimizer is not None else None
        made = self._schedulers[id(scheduler)] = (weakref.ref(scheduler), len(self._schedulers), owner)
        return made

    # -- the update --------------------------------------------------------------------------------------

    def _append(self, code: int, site: Site | None = None, raw: _Raw = None) -> None:
        if len(self._codes) >= LONGEST and code & 15 != _STEP:
            self._truncated = True
            return
        self._codes.append(code)
        self._details.append((site, raw))

    def _opens_update(self, kind: int, site: Site) -> None:
        """Close the update if this call stood before its backward too: then it is the first of the next one.

        So a loop that begins with `zero_grad()` reads as one, whether its batches are seen or not.
        """
        if self._stepped and not self._open and kind + 16 * site.spot in self._prelude:
            self.close()
        if not self._prelude_over:
            self._prelude.add(kind + 16 * site.spot)

    def close(self) -> None:
        """End the current update: count its signature, and hand it on if checks should see it."""
        signature = tuple(self._codes)
        seen = self.occurrences.get(signature, 0) + 1
        self.occurrences[signature] = seen
        self.updates += 1
        if self.updates > _ALWAYS_TIMED:
            self.weight = 0 if self.updates % _TIMED_EVERY else _TIMED_EVERY
        if seen == 1 and len(self.occurrences) > SIGNATURES:
            oldest = next(iter(self.occurrences))
            self._rows.retire(map(_kind_of, oldest), self.occurrences.pop(oldest))
        if seen & (seen - 1) == 0:
            events = tuple(
                Event(_kind_of(code), site, code >> 4 & 255, self._told(raw))
                for code, (site, raw) in zip(signature, self._details, strict=True)
            )
            update = Update(self.steps, seen, self.updates, hash(signature), events, self._truncated)
            self._reset()
            self._deliver(update, signature)
        else:
            self._reset()

    def _told(self, raw: _Raw) -> StepReading | SchedulerReading | None:
        if isinstance(raw, RawReading):
            return told(raw)
        if raw is None:
            return None
        name, number, owner, offers, position, explicit = raw
        position = float(position) if isinstance(position, (int, float)) else None
        return SchedulerReading(name, number, owner.label if owner else "", offers, position, explicit)

    def last_reading(self) -> StepReading | None:
        """What the ledger said of the last executed step of the current update; None before one."""
        raw = next((raw for _, raw in reversed(self._details) if isinstance(raw, RawReading)), None)
        return None if raw is None else told(raw)

    def _reset(self) -> None:
        self._codes.clear()
        self._details.clear()
        self._prelude.clear()
        self._stepped = self._truncated = self._prelude_over = False

    def finish(self) -> None:
        """The run ends: an update that has stepped is judged, one that has not is left out."""
        if self._stepped:
            self.close()

    def rows(self) -> list[tuple[str, int]]:
        """Each row of events and how many updates consisted of it, the most frequent first."""
        words: dict[tuple[str, ...], int] = {}
        for signature, count in self.occurrences.items():
            names = tuple(map(_kind_of, signature))
            words[names] = words.get(names, 0) + count
        return self._rows.table(words)

    def unfinished(self) -> str:
        """The row of events since the last step: all there is, in a loop that never steps."""
        return row_of(list(map(_kind_of, self._codes)))


def _first_tensor(container: Any) -> torch.Tensor | None:
    """The first tensor in a dict, list or tuple of inputs, one level deep."""
    values = container.values() if hasattr(container, "values") else container
    if not isinstance(container, (list, tuple)) and values is container:
        return None
    return next((value for value in values if isinstance(value, torch.Tensor)), None)


def _version(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _driven_by(scheduler: Any) -> Optimizer | None:
    """The optimizer a scheduler drives, out of the wrappers frameworks put around it."""
    optimizer = getattr(scheduler, "optimizer", None)
    for _ in range(4):
        inner = getattr(optimizer, "optimizer", None)
        if not isinstance(inner, torch.optim.Optimizer):
            break
        optimizer = inner
    return optimizer if isinstance(optimizer, torch.optim.Optimizer) else None


class _OpenStep:
    """A step between its pre and its post hook."""

    __slots__ = ("before", "closure", "key", "owner", "reading", "site", "sure", "wraps")

    def __init__(self, key: int, owner: Owner, closure: bool, site: Site, before: int) -> None:
        self.key = key
        self.before = before
        self.owner = owner
        self.closure = closure
        self.site = site
        self.sure = False
        self.reading: RawReading | None = None
        self.wraps = False


def _nothing() -> None:
    """Stands where a weak reference to a model input would, while there is none."""
