"""The ordinary update of the only optimizer, whose gradients are looked at once: by its step.

While its steps are ordinary, the look after a backward is put off: `late` is the backward that made what is there.
The look before the step compares how often each gradient was changed with how often it usually is. One update of
`IN_FULL` is looked at in full all the same.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from itertools import chain
from typing import TYPE_CHECKING

from loopkit.holdings import Mark, Owner, State
from loopkit.looking import grad_of, params_of, version_of
from loopkit.owners import Owners
from loopkit.reading import FRESH

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from loopkit.callsite import Site
    from loopkit.opensteps import OpenStep

IN_FULL = 16  # a power of 2
Refs = list["Callable[[], Tensor | None]"]
"""Gradients, weakly."""


class Usual(Owners):
    """Owners, of whom one may be looked at as usual.

    Attributes:
        last_forward: the tick at which the last forward with gradients enabled began.
        usual: the only optimizer, while its steps are ordinary.
        late: the backward whose gradients have not been looked at yet.
        wake: called before anything is looked at or changed, while the record leaves out what is expected
            (`settling.py`).
    """

    awaited: dict[tuple[int, str], list[Callable[[], Tensor | None]]]

    def __init__(self) -> None:
        super().__init__()
        self.last_forward = 0
        self.usual: Owner | None = None
        self.late: Mark | None = None
        self.wake: Callable[[], None] | None = None
        self._last_backward: Mark | None = None
        self._usual_versions: list[int] = []

    def in_full(self, owner: Owner) -> bool:
        """Whether its next step is looked at in full, whatever is usual."""
        return owner.steps & (IN_FULL - 1) == 0

    def until_in_full(self, owner: Owner) -> int:
        """How many steps from now on the first is that will be looked at in full; 0 for the next one."""
        return -owner.steps % IN_FULL

    def put_off(self, site: Site, batch: int, inputs: int) -> None:
        """A backward ended, and its gradients are not looked at yet."""
        self.now.tick += 1
        self.late = self._last_backward = Mark(self.now.tick, site, batch, inputs)

    def as_usual(self, optimizer: Optimizer) -> Refs | None:
        """Its gradients, weakly, if there are as many as is usual and each was changed as often."""
        grads = list(map(grad_of, chain.from_iterable(map(params_of, optimizer.param_groups))))
        try:
            if list(map(version_of, grads)) != self._usual_versions:
                return None
        except AttributeError:  # a None among them
            return None
        return list(map(weakref.ref, grads))

    def look_as_usual(self, optimizer: Optimizer, step: OpenStep) -> bool:
        """The one look of an ordinary update, before its step: `all_new`, and nobody has changed them since.

        False where the update is no ordinary one; `look_before_step` says then what there is.
        """
        owner = self.usual
        if owner is None or owner.optimizer() is not optimizer or owner.wiped or owner.doubt.sampling:
            return False
        refs = self.as_usual(optimizer)
        if refs is None:
            return False
        self.take_as_usual(owner, refs, step)
        return True

    def take_as_usual(self, owner: Owner, refs: Refs, step: OpenStep) -> None:
        """Put down what that look saw. The step is told its owner and what `read` would say of it."""
        mark, self.late = self.late, None
        assert mark is not None
        mark.reached |= 1 << owner.number
        owner.uniform = step.usual = state = State((), (mark,), 1)
        owner.refs, owner.column, owner.versions, owner.blank = refs, None, self._usual_versions, False
        step.owner = owner
        kinds = ((state, len(refs)),)
        step.reading = owner, FRESH, kinds, (), owner.last_site, owner.steps, self.last_forward

    def use_as_usual(self, owner: Owner, state: State, site: Site, moved: int) -> None:
        """The step before which there was that look was executed: what `consume` says of it."""
        now, mark = self.now, state.fresh[0]
        now.tick = tick = now.tick + 1
        owner.moved_at = moved
        mark.users |= 1 << owner.number
        mark.claimed_at, mark.claim = tick, (owner.number, owner.label, site)
        owner.uniform = State(state.fresh)
        owner.last_site, owner.last_tick = site, tick

    def note_usual(self, owner: Owner) -> None:
        """Note whether from now on one look an update is enough: what is there now is all of it one backward's."""
        state = owner.uniform
        plain = state is not None and state.count == len(state.fresh) == 1 and not (state.used or state.written)
        alone = len(self.known) == 1 and not self.awaited
        quiet = not (owner.wiped or owner.sharded or owner.doubt.sampling or self.now.closures)
        known = owner.keeps_grads and owner.each_moved_at is None
        usual = plain and alone and quiet and known
        self.usual, self._usual_versions = (owner, owner.versions) if usual else (None, [])
