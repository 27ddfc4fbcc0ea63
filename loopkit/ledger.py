"""The gradient ledger: for each parameter of each optimizer, who filled its `.grad` and who used it.

How it knows. `.grad` is looked at before and after each backward, before and after each step, and after each
clear: which object it is (held weakly: an address is used again within a step) and its `_version`, which counts
in-place changes. Both are read without touching the device. What changed since the last look is put down to
what happened in between: a backward contributed, a clear wiped, the optimizer changed its own gradients, or, where
no such call was seen, the user's own hand. A post-accumulate hook on each parameter would cost more and is
wrong under DDP, whose all-reduce writes after the hook has fired.

What it cannot know. `p.grad.data.zero_()` and other writes through `.data` leave no trace. So before gradients
that a step has used are called stale, one value is read, at most `VALUE_READS` times for each optimizer.
"""

from __future__ import annotations

import enum
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from functools import reduce
from itertools import chain
from operator import is_, or_
from typing import TYPE_CHECKING, Any

from loopkit.update import StepReading, Wipe

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from loopkit.callsite import Site

VALUE_READS = 3
"""How often, for each optimizer, a suspicion may be confirmed by reading one gradient's value."""

_KEPT_MARKS = 4  # of a long window only the first and last contributions are kept, so memory stays flat
_KEPT_WIPES = 16


class Cause(enum.Enum):
    """What happened since the last look, to which changes of `.grad` are put down."""

    BACKWARD = enum.auto()
    CLEAR = enum.auto()
    STEP = enum.auto()
    HAND = enum.auto()


class _Change(enum.Enum):
    GONE = enum.auto()
    NEW = enum.auto()
    BUMPED = enum.auto()
    REPLACED = enum.auto()


class Mark:
    """One backward's contribution: at which tick of the ledger's clock, from where, of which batch."""

    __slots__ = ("batch", "claimed", "inputs", "site", "tick")

    def __init__(self, tick: int, site: Site | None, batch: int, inputs: int) -> None:
        self.tick = tick
        self.site = site
        self.batch = batch
        self.inputs = inputs
        self.claimed = False


class _State:
    """What one parameter's `.grad` holds, shared by all parameters with the same history; compared by identity."""

    __slots__ = ("count", "fresh", "used", "written")

    def __init__(
        self, used: tuple[Mark, ...] = (), fresh: tuple[Mark, ...] = (), count: int = 0, written: bool = False
    ) -> None:
        self.used = used
        self.fresh = fresh
        self.count = count
        self.written = written

    def contributed(self, mark: Mark) -> _State:
        fresh = (*self.fresh, mark)
        if len(fresh) > _KEPT_MARKS:
            fresh = fresh[:2] + fresh[-2:]
        return _State(self.used, fresh, self.count + 1, self.written)

    def consumed(self) -> _State:
        return _State((self.used + self.fresh)[-_KEPT_MARKS:], (), 0, False)


_EMPTY = _State()
_Wiped = tuple[Mark, "Site | None", int, bool, int]


class RawReading(tuple["Owner", int, tuple[tuple[_State, int], ...], tuple[_Wiped, ...], "Site | None", bool, int]):
    """What a step used, before anybody asked to know: owner, shape as bits, states with their counts, what was
    wiped, the site of the step before, whether this is the first, and the tick of the last forward. Cheap to make;
    most are never told."""

    __slots__ = ()

    @property
    def shape(self) -> int:
        """The reading without its numbers, as 11 bits."""
        return self[1]


def _nothing() -> None:
    """Stands where a weak reference to a gradient would, while there is none."""


class Owner:
    """One optimizer and the ledger's columns for its parameters, in the order of its groups."""

    __slots__ = ("blank", "clear", "cleared_at", "column", "hidden_clears", "ids", "keeps_grads", "label", "last_site", "last_tick",
                 "number", "offers", "optimizer", "reads_left", "refs", "steps", "stock", "uniform", "versions",
                 "wiped", "zeros_read")  # fmt: skip

    def __init__(self, optimizer: Optimizer, number: int, forget: Callable[[Any], None]) -> None:
        self.optimizer = weakref.ref(optimizer, forget)
        self.number = number
        self.label = type(optimizer).__name__ if number == 0 else f"{type(optimizer).__name__} #{number + 1}"
        # Of torch's own optimizers it is known that a step without gradients does nothing.
        self.stock = getattr(type(optimizer).step, "__module__", "").startswith("torch.optim")
        # They leave `.grad` as it is, but for fused kernels that unscale it themselves.
        self.keeps_grads = self.stock and not getattr(optimizer, "_step_supports_amp_scaling", False)
        self.ids: list[int] = []
        self.refs: list[Callable[[], Tensor | None]] = []
        self.versions: list[int] = []
        self.blank = True  # no parameter has a gradient
        self.clear: Site | None = None  # a zero_grad since the last look
        self.cleared_at = (0, False)
        # One state for all parameters, the usual case, or a column of them: one of the two is always None.
        self.uniform: _State | None = _EMPTY
        self.column: list[_State] | None = None
        self.steps = 0
        self.offers = 0  # executed steps and those a GradScaler skipped
        self.last_site: Site | None = None
        self.last_tick = 0
        self.reads_left = VALUE_READS
        self.zeros_read = 0
        self.hidden_clears = False  # every value read was 0: they are cleared through `.data`
        self.wiped: list[_Wiped] = []

    def parameters(self) -> list[Tensor]:
        """The optimizer's parameters as its groups list them now; none once it is gone."""
        optimizer = self.optimizer()
        if optimizer is None:
            return []
        groups = getattr(optimizer, "param_groups", ())  # none yet while its constructor runs
        return list(chain.from_iterable(group["params"] for group in groups))


    def states(self) -> list[_State]:
        """The state of each parameter."""
        if self.column is not None:
            return self.column
        assert self.uniform is not None
        return [self.uniform] * len(self.versions)

    def set_states(self, states: list[_State]) -> None:
        """Replace the column; as one state where all are the same."""
        first = states[0] if states else _EMPTY
        if states.count(first) == len(states):
            self.uniform, self.column = first, None
        else:
            self.uniform, self.column = None, states


    def empty(self) -> None:
        """No parameter has a gradient any more."""
        count = len(self.versions)
        self.refs, self.versions = [_nothing] * count, [-1] * count
        self.uniform, self.column = _EMPTY, None
        self.blank, self.clear = True, None


class Ledger:
    """Reads and remembers the gradients of every optimizer it was told of.

    One look costs about 0.25 µs a parameter when nothing changed and 0.7 µs when all did.
    """

    def __init__(self) -> None:
        self._owners: dict[int, Owner] = {}
        self._tick = 0
        self._last_forward = 0
        self._closures = 0

    # -- who there is ------------------------------------------------------------------------------------

    def owner(self, optimizer: Optimizer) -> Owner:
        """The columns of `optimizer`, made on first sight."""
        key = id(optimizer)
        found = self._owners.get(key)
        if found is not None and found.optimizer() is optimizer:
            return found
        owners = self._owners

        def forget(reference: object, key: int = key) -> None:
            if key in owners and owners[key].optimizer is reference:
                del owners[key]

        taken = {owner.number for owner in list(owners.values())}
        number = next(n for n in range(len(taken) + 1) if n not in taken)
        made = owners[key] = Owner(optimizer, number, forget)
        self._adopt(made)
        return made

    def owners(self) -> list[Owner]:
        """The optimizers that are alive."""
        return list(self._owners.values())

    def _adopt(self, owner: Owner) -> None:
        """Match the columns to the parameter groups, which a user may extend or replace at any time."""
        parameters = owner.parameters()
        known = dict(zip(owner.ids, range(len(owner.ids)), strict=True))
        refs, versions, states = owner.refs, owner.versions, owner.states()
        owner.ids = list(map(id, parameters))
        owner.refs, owner.versions = [], []
        adopted: list[_State] = []
        unknown = _State(fresh=(Mark(self._tick, None, -1, -1),), count=1)
        for parameter, key in zip(parameters, owner.ids, strict=True):
            at = known.get(key)
            grad = parameter.grad
            if at is not None:
                owner.refs.append(refs[at])
                owner.versions.append(versions[at])
                adopted.append(states[at])
            else:
                owner.refs.append(_nothing if grad is None else weakref.ref(grad))
                owner.versions.append(-1 if grad is None else grad._version)
                adopted.append(_EMPTY if grad is None else unknown)
        owner.set_states(adopted)
        owner.blank = max(owner.versions, default=-1) < 0

    # -- looking -----------------------------------------------------------------------------------------

    def look(
        self, owner: Owner, cause: Cause, mark: Mark | None = None, site: Site | None = None, *, thorough: bool = False
    ) -> None:
        """Bring one optimizer's columns up to date, putting every change down to `cause`.

        That its groups still hold the same parameters, and not as many others, is looked at only when `thorough`.
        """
        optimizer = owner.optimizer()
        groups = getattr(optimizer, "param_groups", ())
        grads = [parameter.grad for group in groups for parameter in group["params"]]
        if len(grads) != len(owner.versions) or (thorough and owner.ids != list(map(id, owner.parameters()))):
            self._adopt(owner)
            grads = [parameter.grad for parameter in owner.parameters()]
        versions = [-1 if grad is None else grad._version for grad in grads]
        if versions == owner.versions and (owner.blank or all(map(is_, grads, [ref() for ref in owner.refs]))):
            owner.clear = None
            return
        if owner.clear is not None:
            cause, site, owner.clear = Cause.CLEAR, owner.clear, None
        if owner.blank and cause is Cause.BACKWARD and mark is not None and min(versions) >= 0:
            # The usual first backward of an update: every gradient is new, and all have the same history.
            owner.refs = [weakref.ref(grad) for grad in grads if grad is not None]
            owner.uniform, owner.column = _State((), (mark,), 1), None
            owner.versions, owner.blank = versions, False
        elif cause is Cause.CLEAR and owner.uniform is not None and max(versions) < 0:
            if owner.uniform.fresh:
                self._wipe(owner, owner.uniform, len(versions), site)
            owner.empty()
        else:
            self._settle(owner, grads, versions, cause, mark, site)

    def look_at_all(self, cause: Cause, mark: Mark | None = None, site: Site | None = None) -> None:
        """`look` at every optimizer."""
        for owner in list(self._owners.values()):
            self.look(owner, cause, mark, site)

    def _settle(
        self,
        owner: Owner,
        grads: list[Tensor | None],
        versions: list[int],
        cause: Cause,
        mark: Mark | None,
        site: Site | None,
    ) -> None:
        before = owner.versions
        refs, states = owner.refs, list(owner.states())
        wiped: Counter[_State] = Counter()
        after: dict[tuple[_State, _Change], _State] = {}
        for i, grad in enumerate(grads):
            if grad is None:
                if before[i] < 0:
                    continue
                change = _Change.GONE
                refs[i] = _nothing
            elif before[i] < 0:
                change = _Change.NEW
                refs[i] = weakref.ref(grad)
            elif refs[i]() is not grad:
                change = _Change.REPLACED
                refs[i] = weakref.ref(grad)
            elif versions[i] != before[i]:
                change = _Change.BUMPED
            else:
                continue
            state = states[i]
            key = (state, change)
            new = after.get(key)
            if new is None:
                new = after[key] = self._next(state, change, cause, mark)
            if state.fresh and (new is _EMPTY or cause is Cause.CLEAR) and cause in (Cause.CLEAR, Cause.HAND):
                wiped[state] += 1
            states[i] = new
        owner.versions = versions
        owner.set_states(states)
        owner.blank = max(versions, default=-1) < 0
        for state, count in wiped.items():
            self._wipe(owner, state, count, site)

    def _next(self, state: _State, change: _Change, cause: Cause, mark: Mark | None) -> _State:
        if cause is Cause.BACKWARD and mark is not None:
            # Gone inside a backward: an optimizer that steps and clears from a gradient hook.
            return _EMPTY if change is _Change.GONE else state.contributed(mark)
        if cause is Cause.STEP:
            return _EMPTY if change is _Change.GONE else state
        if change is _Change.GONE or (cause is Cause.CLEAR and change is _Change.BUMPED):
            return _EMPTY
        written = self._written()
        if change is _Change.BUMPED and state.fresh:
            # Scaled, averaged over processes, clipped by hand: still the gradients that backward made.
            return _State(state.used, state.fresh, state.count, True)
        # Set by hand, or used gradients that were zeroed or scaled on purpose: nothing stale is left to prove.
        return _State((), (written,), 1, True)

    def _written(self) -> Mark:
        mark = Mark(self._tick, None, -1, -1)
        mark.claimed = True
        return mark

    def _wipe(self, owner: Owner, state: _State, count: int, site: Site | None) -> None:
        tick, in_closure = owner.cleared_at if site is not None else (self._tick, self._closures > 0)
        for mark in state.fresh:
            if len(owner.wiped) < _KEPT_WIPES:
                owner.wiped.append((mark, site, count, in_closure, tick))

    # -- what happened -----------------------------------------------------------------------------------

    def forward(self) -> None:
        """A forward with gradients enabled began."""
        self._tick += 1
        self._last_forward = self._tick

    def backward_began(self) -> None:
        """Before a backward adds to anything: note what was done by hand, and confirm what looks stale."""
        for owner in list(self._owners.values()):
            if not owner.blank:
                self.look(owner, Cause.HAND)
                if owner.uniform is not _EMPTY and (owner.reads_left or owner.hidden_clears):
                    self._confirm(owner)

    def backward_ended(self, site: Site, batch: int, inputs: int) -> None:
        """After a backward: put down its contributions."""
        self._tick += 1
        self.look_at_all(Cause.BACKWARD, Mark(self._tick, site, batch, inputs))

    def cleared(self, owners: Iterable[Owner], site: Site) -> None:
        """After a `zero_grad`: the next look will put what is gone down to it."""
        self._tick += 1
        for owner in owners:
            if not owner.blank:
                owner.clear, owner.cleared_at = site, (self._tick, self._closures > 0)

    def emptied(self, owner: Owner, site: Site) -> None:
        """After torch's own `Optimizer.zero_grad()` to None: there is nothing left to look at."""
        self._tick += 1
        if owner.blank:
            return
        owner.cleared_at = self._tick, self._closures > 0
        held = Counter(owner.states()) if owner.uniform is None else {owner.uniform: len(owner.versions)}
        for state, count in held.items():
            if state.fresh:
                self._wipe(owner, state, count, site)
        owner.empty()

    def excuse(self, owners: Iterable[Owner]) -> None:
        """After a clip or an unscale: gradients changed in place, and neither by hand nor by a backward."""
        for owner in owners:
            self.look(owner, Cause.STEP)

    def closure_began(self) -> None:
        """A step with a closure opened."""
        self._closures += 1

    def closure_ended(self) -> None:
        """A step with a closure closed or failed."""
        self._closures = max(0, self._closures - 1)

    def consume(self, owner: Owner, site: Site | None) -> None:
        """A step of `owner` was executed, or skipped by its GradScaler: its gradients are used from now on."""
        self._tick += 1
        if not owner.keeps_grads or self._closures:
            self.look(owner, Cause.STEP)
        if owner.uniform is not None:
            owner.uniform = self._use(owner.uniform)
        else:
            column = owner.states()
            after = {state: self._use(state) for state in set(column)}
            owner.set_states([after[state] for state in column])
        owner.wiped.clear()
        owner.last_site = site
        owner.last_tick = self._tick

    @staticmethod
    def _use(state: _State) -> _State:
        if not state.fresh:
            return state
        for mark in state.fresh:
            mark.claimed = True
        return state.consumed()

    # -- what is known -----------------------------------------------------------------------------------

    def read(self, owner: Owner, *, closure: bool, inside_backward: bool, wraps_a_step: bool) -> RawReading:
        """What the gradients look like that this owner's step uses; `told` makes a `StepReading` of it."""
        kinds: tuple[tuple[_State, int], ...]
        uniform = owner.uniform
        if uniform is not None:
            kinds = ((uniform, len(owner.versions)),)
            fed, shape = bool(uniform.fresh), _kind(uniform)
        else:
            kinds = tuple(Counter(owner.states()).items())
            fed = any(state.fresh for state, _ in kinds)
            shape = reduce(or_, {_kind(state) for state, _ in kinds})
        forward_seen = self._last_forward > owner.last_tick
        idle = not fed and _is_idle(owner)
        shape |= bool(owner.wiped) << 5 | closure << 6 | inside_backward << 7
        shape |= wraps_a_step << 8 | idle << 9 | forward_seen << 10
        wiped = tuple(owner.wiped)
        return RawReading((owner, shape, kinds, wiped, owner.last_site, owner.offers == 0, self._last_forward))

    def told(self, raw: RawReading) -> StepReading:
        """A raw reading in the words of checks."""
        owner, shape, kinds, wiped, used_by, first, last_forward = raw
        counts = dict.fromkeys(_KINDS.values(), 0)
        made: dict[Mark, None] = {}
        stale: Site | None = None
        for state, count in kinds:
            counts[_KINDS[_kind(state)]] += count
            made.update(dict.fromkeys(state.fresh))
            if state.used and state.fresh:
                stale = stale or state.used[0].site
        return StepReading(
            optimizer=owner.label,
            number=owner.number,
            stock=owner.stock,
            parameters=sum(counts.values()),
            **counts,
            contributions=max((state.count for state, _ in kinds), default=0),
            made_by=tuple(dict.fromkeys(mark.site for mark in made if mark.site is not None)),
            batches=tuple(mark.batch for mark in made),
            inputs=tuple(mark.inputs for mark in made),
            used_by=used_by,
            stale_from=stale,
            wipes=tuple(_wipe_told(wipe, last_forward) for wipe in wiped),
            closure=bool(shape & 1 << 6),
            inside_backward=bool(shape & 1 << 7),
            wraps_a_step=bool(shape & 1 << 8),
            idle=bool(shape & 1 << 9),
            forward_seen=bool(shape & 1 << 10),
            first=first,
        )

    def _confirm(self, owner: Owner) -> None:
        """Read one value where used gradients are about to be added to: `.data.zero_()` leaves no trace."""
        states = list(owner.states())
        suspects = [i for i, state in enumerate(states) if state.used and not state.fresh and not state.written]
        if not suspects:
            return
        if not owner.hidden_clears:
            owner.reads_left -= 1
            if any(_holds_something(owner.refs[i]()) for i in suspects[:2]):
                return
            owner.zeros_read += 1
            owner.hidden_clears = owner.zeros_read == VALUE_READS
        for i in suspects:
            states[i] = _EMPTY
        owner.set_states(states)


_KINDS = {1: "without", 2: "fresh", 4: "mixed", 8: "reused", 16: "written"}


def _kind(state: _State) -> int:
    """Which of `StepReading`'s counts a parameter in this state belongs to, as a bit of the reading's shape."""
    if state.fresh:
        return 16 if state.written else 4 if state.used else 2
    return 8 if state.used else 1


def _wipe_told(wipe: _Wiped, last_forward: int) -> Wipe:
    mark, site, count, in_closure, tick = wipe
    return Wipe(
        backward=mark.site,
        cleared=site,
        batch=mark.batch,
        inputs=mark.inputs,
        parameters=count,
        in_closure=in_closure,
        forward_since=last_forward > tick,
        claimed=mark.claimed,
    )


def _is_idle(owner: Owner) -> bool:
    """Whether a step cannot be meant to move anything: every rate is 0, or every parameter is frozen."""
    optimizer = owner.optimizer()
    if optimizer is None:
        return True
    rates = [group.get("lr") for group in optimizer.param_groups]
    if rates and all(isinstance(rate, (int, float)) and rate == 0 for rate in rates):
        return True
    return not any(parameter.requires_grad for parameter in owner.parameters())


def _holds_something(grad: Tensor | None) -> bool:
    """Whether a gradient has a value other than 0. The one read of a tensor's value in this file."""
    if grad is None:
        return False
    if grad.is_sparse:
        return bool(grad._nnz())
    try:
        return bool(grad.detach().count_nonzero())
    except (RuntimeError, NotImplementedError):  # fake and meta tensors hold no values: nothing can be said
        return False
