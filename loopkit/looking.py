"""Looking at one optimizer's gradients: what changed since the last look, and whose doing it was."""

from __future__ import annotations

import enum
import weakref
from collections import Counter
from itertools import chain
from operator import attrgetter, call, is_, itemgetter
from typing import TYPE_CHECKING

from loopkit.holdings import EMPTY, Mark, Owner, State, nothing

if TYPE_CHECKING:
    from torch import Tensor

    from loopkit.callsite import Site

_KEPT_WIPES = 16
grad_of, version_of, params_of = attrgetter("grad"), attrgetter("_version"), itemgetter("params")


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


class Now:
    """The ledger's clock, and how many steps with a closure are open."""

    __slots__ = ("closures", "tick")

    def __init__(self) -> None:
        self.tick = 0
        self.closures = 0


def adopt(owner: Owner, now: Now, mark: Mark | None = None) -> None:
    """Match the columns to the parameter groups, which a user may extend or replace at any time.

    A gradient that a parameter brings along is put down to `mark`, the backward that just ended, if any.
    """
    parameters = owner.parameters()
    known = dict(zip(owner.ids, range(len(owner.ids)), strict=True))
    refs, versions, states = owner.refs, owner.versions, owner.states()
    owner.ids = list(map(id, parameters))
    owner.sharded = any(hasattr(parameter, "_local_tensor") for parameter in parameters)
    owner.refs, owner.versions = [], []
    adopted: list[State] = []
    unknown = State(fresh=(mark or Mark(now.tick, None, -1, -1),), count=1)
    for parameter, key in zip(parameters, owner.ids, strict=True):
        at = known.get(key)
        grad = parameter.grad
        if at is not None:
            owner.refs.append(refs[at])
            owner.versions.append(versions[at])
            adopted.append(states[at])
        else:
            owner.refs.append(nothing if grad is None else weakref.ref(grad))
            owner.versions.append(owner.version(grad))
            adopted.append(EMPTY if grad is None else unknown)
    owner.set_states(adopted)
    owner.moved_at, owner.each_moved_at = 0, None  # of newcomers it is not known
    if owner.life is not None and parameters:
        owner.life.holds(owner, parameters)
    owner.blank = max(owner.versions, default=-1) < 0


def look(
    owner: Owner,
    now: Now,
    cause: Cause,
    mark: Mark | None = None,
    site: Site | None = None,
    *,
    thorough: bool = False,
) -> None:
    """Bring one optimizer's columns up to date, putting every change down to `cause`.

    That its groups still hold the same parameters, and not as many others, is looked at only when `thorough`.
    """
    if not (owner.blank or thorough or owner.sharded) and unchanged(owner):
        return
    groups = getattr(owner.optimizer(), "param_groups", ())
    grads = [parameter.grad for group in groups for parameter in group["params"]]
    if len(grads) != len(owner.versions) or (thorough and owner.ids != list(map(id, owner.parameters()))):
        adopt(owner, now, mark)
        grads = [parameter.grad for parameter in owner.parameters()]
    if owner.sharded:
        versions = [owner.version(grad) for grad in grads]
    else:
        versions = [-1 if grad is None else grad._version for grad in grads]
    if versions == owner.versions and (owner.blank or all(map(is_, grads, [ref() for ref in owner.refs]))):
        return
    if cause is Cause.CLEAR and owner.uniform is not None and max(versions) < 0:
        if owner.uniform.fresh:
            wipe(owner, now, owner.uniform, len(versions), site)
        owner.empty()
    else:
        _settle(owner, now, grads, versions, cause, mark, site)


def all_new(owner: Owner, mark: Mark) -> bool:
    """The usual first backward of an update: every gradient is new, and all have the same history.

    Where that is not so, this answers False and changes nothing.
    """
    groups = getattr(owner.optimizer(), "param_groups", ())
    # Not comprehensions: each would be a frame, on the path of every update.
    grads = list(map(grad_of, chain.from_iterable(map(params_of, groups))))
    try:
        versions = list(map(version_of, grads))
    except AttributeError:  # a None among them
        return False
    if not versions or len(versions) != len(owner.versions) or owner.sharded:
        return False
    mark.reached |= 1 << owner.number
    owner.refs = list(map(weakref.ref, grads))
    owner.uniform, owner.column = State((), (mark,), 1), None
    owner.versions, owner.blank = versions, False
    return True


def unchanged(owner: Owner) -> bool:
    """Whether every gradient is the object it was and no more often changed: the usual look before a step."""
    groups = getattr(owner.optimizer(), "param_groups", ())
    grads = list(map(grad_of, chain.from_iterable(map(params_of, groups))))
    try:
        if list(map(version_of, grads)) != owner.versions:
            return False
    except AttributeError:  # a None among them
        return False
    return all(map(is_, grads, map(call, owner.refs)))


def _settle(
    owner: Owner,
    now: Now,
    grads: list[Tensor | None],
    versions: list[int],
    cause: Cause,
    mark: Mark | None,
    site: Site | None,
) -> None:
    before = owner.versions
    refs, states = owner.refs, list(owner.states())
    wiped: Counter[State] = Counter()
    after: dict[tuple[State, _Change], State] = {}
    for i, grad in enumerate(grads):
        if grad is None:
            if before[i] < 0:
                continue
            change = _Change.GONE
            refs[i] = nothing
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
            new = after[key] = _next(now, state, change, cause, mark, owner.number)
        if state.fresh and (new is EMPTY or cause is Cause.CLEAR) and cause in (Cause.CLEAR, Cause.HAND):
            wiped[state] += 1
        states[i] = new
    owner.versions = versions
    owner.set_states(states)
    owner.blank = max(versions, default=-1) < 0
    for state, count in wiped.items():
        wipe(owner, now, state, count, site)


def _next(now: Now, state: State, change: _Change, cause: Cause, mark: Mark | None, number: int) -> State:
    if cause is Cause.BACKWARD and mark is not None:
        mark.reached |= 1 << number
        # Gone inside a backward: an optimizer that steps and clears from a gradient hook.
        return EMPTY if change is _Change.GONE else state.contributed(mark)
    if cause is Cause.STEP:
        return EMPTY if change is _Change.GONE else state
    if change is _Change.GONE or (cause is Cause.CLEAR and change is _Change.BUMPED):
        return EMPTY
    if change is _Change.BUMPED and state.fresh:
        # Scaled, averaged over processes, clipped by hand: still the gradients that backward made.
        return State(state.used, state.fresh, state.count, True)
    # Set by hand, or used gradients that were zeroed or scaled on purpose: nothing stale is left to prove.
    return State((), (written(now),), 1, True)


def written(now: Now) -> Mark:
    """The mark of a gradient that was set or changed by hand: nobody's to lose."""
    mark = Mark(now.tick, None, -1, -1)
    mark.claimed_at = -1
    return mark


def wipe(owner: Owner, now: Now, state: State, count: int, site: Site | None) -> None:
    """Note gradients that are gone and that no step had used."""
    for mark in state.fresh:
        if len(owner.wiped) < _KEPT_WIPES:
            owner.wiped.append((mark, site, count, now.closures > 0, now.tick))
