"""The gradient ledger: for each parameter of each optimizer, who filled its `.grad` and who used it.

How it knows. `.grad` is looked at before and after each backward, before and after each step, and after each
clear: which object it is (held weakly: an address is used again within a step) and its `_version`, which counts
in-place changes. Both are read without touching the device. What changed since the last look is put down to
what happened in between: a backward contributed, a clear wiped, the optimizer changed its own gradients, or, where
no such call was seen, the user's own hand. A post-accumulate hook on each parameter would cost more and is
wrong under DDP, whose all-reduce writes after the hook has fired.

What it cannot know. `p.grad.data.zero_()` and other writes through `.data` leave no trace: where gradients look
wrong, their values are asked, as `doubt.py` says.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch

from loopkit.doubt import CLEARED, MEANT, STALE, WRITTEN
from loopkit.holdings import EMPTY, KEPT_MARKS, Mark, Owner, State, nothing
from loopkit.looking import Cause, all_new, look, unchanged, wipe, written
from loopkit.usual import Usual

if TYPE_CHECKING:
    from torch import Tensor

    from loopkit.callsite import Site


sequence_number: Callable[[], int] = getattr(torch.autograd, "_get_sequence_nr", int)  # int: an older torch


class Ledger(Usual):
    """Reads and remembers the gradients of every optimizer it was told of.

    One look costs about 0.25 µs a parameter when nothing changed and 0.7 µs when all did.

    Attributes:
        awaited: parameters that never had a gradient, by their optimizer's number and the name of their module.
    """

    def __init__(self) -> None:
        super().__init__()
        self.awaited: dict[tuple[int, str], list[Callable[[], Tensor | None]]] = {}

    # -- looking -----------------------------------------------------------------------------------------

    def look(self, owner: Owner, cause: Cause, mark: Mark | None = None, site: Site | None = None) -> None:
        """Bring one optimizer's columns up to date, putting every change down to `cause`."""
        look(owner, self.now, cause, mark, site)

    def look_at_all(self, cause: Cause, mark: Mark | None = None, site: Site | None = None) -> None:
        """`look` at every optimizer."""
        for owner in self.owners():
            self.look(owner, cause, mark, site)

    def settle(self) -> None:
        """Look at what the last backward made, if that was put off."""
        if self.wake is not None:
            self.wake()
        if self.late is not None:
            mark, self.late, self.usual = self.late, None, None
            self._look_after_backward(mark)

    def met_or_gone(self) -> None:
        """Nobody is the only optimizer any more, or somebody else is."""
        self.settle()
        self.usual = None

    # -- what happened -----------------------------------------------------------------------------------

    def look_for_hands(self) -> None:
        """Note what was done by hand until now, before something else changes gradients in place."""
        self.look_at_all(Cause.HAND)

    def backward_began(self, site: Site) -> None:
        """Before a backward adds to anything: note what was done by hand, and confirm what looks stale."""
        self.settle()
        for owner in list(self.known.values()):
            if not owner.blank or not owner.versions:
                self.look(owner, Cause.HAND)
                if owner.uniform is not EMPTY:
                    owner.doubt.before_backward(owner, site.number)

    def backward_ended(self, site: Site, batch: int, inputs: int) -> None:
        """After a backward: put down its contributions."""
        usual = self.usual
        self.put_off(site, batch, inputs)
        if usual is None or not usual.blank or self.in_full(usual) or self.now.closures:
            mark, self.late = self.late, None
            assert mark is not None
            self._look_after_backward(mark)

    def _look_after_backward(self, mark: Mark) -> None:
        if self.awaited:
            self._arrive()
        for owner in list(self.known.values()):
            if owner.doubt.suspects:
                self._settle_doubt(owner)
            before = owner.versions
            if not (owner.blank and all_new(owner, mark)):
                look(owner, self.now, Cause.BACKWARD, mark)
            if owner.versions is not before and owner.doubt.sampling:
                owner.doubt.remember(owner)
                owner.doubt.remember_weights(owner)

    def last_batch(self) -> int:
        """How many batches had arrived at the last backward; 0 before the first."""
        return self._last_backward.batch if self._last_backward is not None else 0

    def last_backward(self) -> Site | None:
        """Where the last backward was."""
        return self._last_backward.site if self._last_backward is not None else None

    def wait_for(self, owner: Owner, name: str, parameters: Iterable[Tensor]) -> None:
        """Notice when any of these parameters, which had no gradient until now, gets one from a backward."""
        self.usual = None
        self.awaited.setdefault((owner.number, name), [weakref.ref(each) for each in parameters])

    def _arrive(self) -> None:
        for key, references in list(self.awaited.items()):
            if any((each := known()) is not None and each.grad is not None for known in references):
                del self.awaited[key]

    def _settle_doubt(self, owner: Owner) -> None:
        """Used gradients that a backward has added to were stale, unless their value says otherwise."""
        doubt = owner.doubt
        suspects, doubt.suspects = doubt.suspects, []
        grads = [parameter.grad for parameter in owner.parameters()]
        if len(grads) != len(owner.versions) or not any(
            grads[i] is not owner.refs[i]() or owner.version(grads[i]) != owner.versions[i] for i in suspects
        ):
            return
        doubt.suspect()
        verdict = doubt.verdict()
        if verdict != STALE:
            new = EMPTY if verdict == CLEARED else State((), (written(self.now),), 1, True)
            states = list(owner.states())
            for i in suspects:
                states[i] = new
            owner.set_states(states)

    def cleared(self, owners: Iterable[Owner], site: Site) -> None:
        """After a `zero_grad` to zero, or of a module: what changed is its doing."""
        self.now.tick += 1
        for owner in owners:
            if not owner.blank:
                self.look(owner, Cause.CLEAR, site=site)

    def emptied(self, owner: Owner, site: Site) -> None:
        """After torch's own `Optimizer.zero_grad()` to None: there is nothing left to look at."""
        self.now.tick += 1
        if owner.blank:
            return
        if owner.uniform is not None and not owner.uniform.fresh:
            # All of it was used, the usual clear: what `empty` does.
            count = len(owner.versions)
            owner.refs, owner.versions, owner.blank = [nothing] * count, [-1] * count, True
            owner.uniform, owner.column = EMPTY, None
            return
        held = Counter(owner.states()) if owner.uniform is None else {owner.uniform: len(owner.versions)}
        for state, count in held.items():
            if state.fresh:
                wipe(owner, self.now, state, count, site)
        owner.empty()

    def excuse(self, owners: Iterable[Owner]) -> None:
        """After a clip or an unscale: gradients changed in place, and neither by hand nor by a backward."""
        self.settle()
        for owner in owners:
            self.look(owner, Cause.STEP)
            if owner.doubt.sampling:
                owner.doubt.remember(owner)

    def look_before_step(self, owner: Owner) -> bool:
        """Before a step: note what was done by hand. Whether values confirm what looks wrong with its gradients."""
        if self.late is not None:
            self.settle()
        thorough = self.in_full(owner)
        if thorough or owner.blank or owner.sharded or not unchanged(owner):
            look(owner, self.now, Cause.HAND, thorough=thorough)
        if thorough:
            self.note_usual(owner)
        uniform = owner.uniform
        if uniform is not None and uniform.fresh and not owner.wiped:
            if uniform.count > 1 and owner.doubt.sampling:
                owner.doubt.compare(owner)
            return False  # the ordinary step: there is nothing to confirm
        fed = any(state.fresh for state in owner.states())
        if owner.blank or (fed and not any(wipe[0].claimed_at > wipe[4] for wipe in owner.wiped)):
            return owner.blank  # without any gradient there is nothing to confirm
        answer = owner.doubt.before_step(owner)
        if answer in (WRITTEN, MEANT):
            new = State((), (written(self.now),), 1, True)
            states = list(owner.states())
            owner.set_states([new if version >= 0 else EMPTY for version in owner.versions])
            if fed:  # what backward made is in there all the same
                owner.set_states([State(s.used, s.fresh, s.count, True) if s.fresh else new for s in states])
        return answer in (STALE, CLEARED)

    def closure_began(self) -> None:
        """A step with a closure opened."""
        self.now.closures += 1

    def closure_ended(self) -> None:
        """A step with a closure closed or failed."""
        self.now.closures = max(0, self.now.closures - 1)

    def consume(self, owner: Owner, site: Site | None, *, executed: bool = True) -> None:
        """A step of `owner` was executed, or skipped by its GradScaler: its gradients are used from now on."""
        self.now.tick += 1
        if self.late is not None:
            self.settle()
        if owner.keeps_grads is None:
            owner.keeps_grads = owner.stock and not _unscales_itself(owner)
            if executed and owner.life is not None:
                owner.life.stepped()
        uniform = owner.uniform
        if executed:
            if uniform is not None and uniform.fresh and owner.each_moved_at is None:
                owner.moved_at = sequence_number()  # the ordinary step: what `moved` does
            else:
                owner.moved(sequence_number())
        if uniform is not None:
            if len(uniform.fresh) == 1 and not uniform.used:  # the ordinary step: what `_use` does
                mark = uniform.fresh[0]
                mark.users |= 1 << owner.number
                if mark.claimed_at > self.now.tick:
                    mark.claimed_at, mark.claim = self.now.tick, (owner.number, owner.label, site)
                owner.uniform = State(uniform.fresh)
            elif uniform.fresh:
                owner.uniform = self._use(uniform, owner, site)
        else:
            column = owner.states()
            after = {state: self._use(state, owner, site) for state in set(column)}
            owner.set_states([after[state] for state in column])
        if not owner.keeps_grads or self.now.closures:
            # An optimizer of the user's own may keep something in `.grad` on purpose: error feedback, a momentum.
            self.look(owner, Cause.STEP if owner.stock else Cause.HAND)
        if owner.wiped:
            owner.wiped.clear()
        owner.last_site = site
        owner.last_tick = self.now.tick
        if owner.doubt.sampling:
            owner.doubt.used(owner)
            if owner.life is not None:
                owner.life.leaves(owner.steps + executed)

    def others_fed(self, owner: Owner) -> bool:
        """Whether the last backward since this owner's step was used by another optimizer."""
        mark = self._last_backward
        return mark is not None and owner.last_tick < mark.tick and mark.claimed_at <= self.now.tick

    def worked(self, owner: Owner) -> bool:
        """Whether a forward with gradients or a backward ran since this owner's step."""
        mark = self._last_backward
        return self.last_forward > owner.last_tick or (mark is not None and mark.tick > owner.last_tick)

    def _use(self, state: State, owner: Owner, site: Site | None) -> State:
        if not state.fresh:
            return state
        tick = self.now.tick
        for mark in state.fresh:
            mark.users |= 1 << owner.number
            if mark.claimed_at > tick:
                mark.claimed_at = tick
                mark.claim = owner.number, owner.label, site
        return State((state.used + state.fresh)[-KEPT_MARKS:])


def _unscales_itself(owner: Owner) -> bool:
    """Fused kernels divide `.grad` by the GradScaler's scale in their step; torch's others leave it alone."""
    return bool(getattr(owner.optimizer(), "_step_supports_amp_scaling", False))
