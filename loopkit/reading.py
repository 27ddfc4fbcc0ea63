"""What an optimizer's step used, read from the ledger's columns: first as bits, then in the words of checks."""

from __future__ import annotations

from collections import Counter
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Protocol

from loopkit.holdings import Mark, Owner, State, Wiped, is_zero
from loopkit.scaling import BY_SCALER
from loopkit.update import Leak, StepReading, Wipe

if TYPE_CHECKING:
    from loopkit.callsite import Site
    from loopkit.ledger import Ledger


RawReading = tuple[Owner, int, tuple[tuple[State, int], ...], tuple[Wiped, ...], "Site | None", int, int]
"""What a step used, before anybody asked to know: owner, shape (the reading without its numbers, as 15 bits), states
with their counts, what was wiped, the site of the step before, how many there were, and the tick of the last forward.
A plain tuple: one is made at every step, and most are never told."""

FRESH = 2
"""The shape of the ordinary step: every gradient is of backwards since the last one."""


class StepSoFar(Protocol):
    """What is known of the step itself."""

    closure: bool
    wraps: bool
    sure: bool


def read(owner: Owner, ledger: Ledger, step: StepSoFar, *, inside_backward: bool) -> RawReading:
    """What the gradients look like that this owner's step uses; `told` makes a `StepReading` of it."""
    kinds: tuple[tuple[State, int], ...]
    closure, wraps, sure = step.closure, step.wraps, step.sure
    uniform = owner.uniform
    if uniform is not None and uniform.fresh and not (owner.wiped or closure or inside_backward or wraps or sure):
        kinds = ((uniform, len(owner.versions)),)  # the ordinary step
        shape = 16 if uniform.written else 4 if uniform.used else FRESH  # what `_kind` says
        if len(uniform.fresh) > 1:
            shape |= _is_shared(uniform) << 13
        return owner, shape, kinds, (), owner.last_site, owner.steps, ledger.last_forward
    if uniform is not None:
        kinds = ((uniform, len(owner.versions)),)
        fed, shape = bool(uniform.fresh), _kind(uniform) | _is_shared(uniform) << 13
    else:
        kinds = tuple(Counter(owner.states()).items())
        fed = any(state.fresh for state, _ in kinds)
        shape = reduce(or_, {_kind(state) | _is_shared(state) << 13 for state, _ in kinds})
    idle = not fed and _is_idle(owner)
    shape |= bool(owner.wiped) << 5 | closure << 6 | inside_backward << 7
    shape |= wraps << 8 | idle << 9
    if not fed:
        shape |= ledger.worked(owner) << 10 | ledger.others_fed(owner) << 11
    shape |= sure << 12
    return owner, shape, kinds, tuple(owner.wiped), owner.last_site, owner.steps, ledger.last_forward


def told(raw: RawReading) -> StepReading:
    """A raw reading in the words of checks."""
    owner, shape, kinds, wiped, used_by, steps, last_forward = raw
    counts = dict.fromkeys(_KINDS.values(), 0)
    made: dict[Mark, None] = {}
    stale: Site | None = None
    leaked, leak = 0, None
    for state, count in kinds:
        counts[_KINDS[_kind(state)]] += count
        made.update(dict.fromkeys(state.fresh))
        if state.used and state.fresh:
            stale = stale or state.used[0].site
        found = _leak(state, owner)
        if found is not None:
            leaked, leak = leaked + count, leak or found
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
        worked=bool(shape & 1 << 10),
        others_fed=bool(shape & 1 << 11),
        confirmed=bool(shape & 1 << 12),
        leaked=leaked,
        leak=leak,
        steps=steps + 1,
        touched=owner.doubt.is_touched() or _is_hooked(owner),
        least=min((state.count for state, _ in kinds if state.fresh), default=0),
        scaled=bool(shape & BY_SCALER),
        effect=owner.effort.told(owner) if owner.effort is not None and owner.effort.at == steps else None,
    )


def _is_hooked(owner: Owner) -> bool:
    """Whether hooks may change gradients as they come, or just before the step uses them."""
    optimizer = owner.optimizer()
    if optimizer is None or getattr(optimizer, "_optimizer_step_pre_hooks", None):
        return optimizer is not None
    return any(
        parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None)
        for parameter in owner.parameters()
    )


_KINDS = {1: "without", FRESH: "fresh", 4: "mixed", 8: "reused", 16: "written"}


def _kind(state: State) -> int:
    """Which of `StepReading`'s counts a parameter in this state belongs to, as a bit of the reading's shape."""
    if state.fresh:
        return 16 if state.written else 4 if state.used else FRESH
    return 8 if state.used else 1


def _is_shared(state: State) -> bool:
    """Whether some of its gradients, but not all, had been used by another optimizer when this is asked."""
    if len(state.fresh) < 2:
        return False
    claimed = [mark.claim is not None for mark in state.fresh]
    return any(claimed) and not all(claimed)


def _leak(state: State, owner: Owner) -> Leak | None:
    """What another optimizer's step had used of this state, and what came after that step and is this one's alone.

    Asked after the step: what nobody had used then is claimed by its own optimizer now.
    """
    if len(state.fresh) < 2 or state.used or state.written:
        return None
    own = [mark for mark in state.fresh if mark.claim is not None and mark.claim[0] == owner.number]
    for mark in state.fresh:
        if mark.claim is None or mark.claim[0] == owner.number or mark.site is None or mark.claim[2] is None:
            continue
        claimer = mark.claim[0]
        after = [
            each.site
            for each in own
            if each.site is not None and each.tick > mark.claimed_at and _is_foreign(each, claimer, owner)
        ]
        # One loss from one place for two optimizers, of which one steps less often, is meant.
        if after and after[-1] is not mark.site:
            return Leak(mark.site, mark.claim[1], mark.claim[2], after[-1])
    return None


def _is_foreign(own: Mark, claimer: int, owner: Owner) -> bool:
    """Whether this optimizer's own loss has no business with what the claimer left.

    A shared trunk collects the losses of two heads: the second reaches another head, and not the first one's. And an
    optimizer that steps less often than its sibling shares every loss with it.
    """
    others = own.reached & ~(1 << owner.number)
    collects = others and not others & 1 << claimer
    return not collects and not own.users & 1 << claimer


def _wipe_told(wipe: Wiped, last_forward: int) -> Wipe:
    mark, site, count, in_closure, tick = wipe
    return Wipe(
        backward=mark.site,
        cleared=site,
        batch=mark.batch,
        inputs=mark.inputs,
        parameters=count,
        in_closure=in_closure,
        forward_since=last_forward > mark.tick,
        claimed=mark.claimed_at < tick,
    )


def _is_idle(owner: Owner) -> bool:
    """Whether a step cannot be meant to move anything: every rate is 0, or every parameter is frozen."""
    optimizer = owner.optimizer()
    if optimizer is None:
        return True
    rates = [group.get("lr") for group in optimizer.param_groups]
    if rates and all(is_zero(rate) for rate in rates):
        return True
    return not any(parameter.requires_grad for parameter in owner.parameters())
