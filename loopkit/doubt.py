"""The few gradient values that are read: what a write through `.data` hides from versions and identities.

`p.grad.data.zero_()`, `p.grad.data.copy_()` and `p.grad.data.mul_()` leave no trace. So where a gradient looks stale,
missing or wiped, a value decides before that is said: is it really not 0, is it still what the last backward left?
For that a copy of the first `SAMPLE` elements of one gradient is kept, during the first `SURE` steps of an optimizer
and again once something looked wrong. Nothing is read before there is a suspicion; a suspicion that comes back is
asked of the device the first `ASKED` times, then at the 16th, 32nd, 64th …; in between the last answer stands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loopkit.unseen import unseen

if TYPE_CHECKING:
    from torch import Tensor

    from loopkit.holdings import Owner, State

SAMPLE = 64
"""Elements of one gradient that are remembered."""
SURE = 3
"""Steps of each optimizer during which a sample is kept although nothing looks wrong yet."""
ASKED = 8
"""How often a suspicion is put to the device before that becomes ever rarer."""
_TENSORS = 64  # of a model with many parameters, this many are asked whether they hold anything but 0

CLEARED, WRITTEN, STALE = "cleared", "written", "stale"
_MOVED = "moved"  # the weights were, between two backwards: that explains what was written, and hides nothing


class Doubt:
    """What is remembered of one optimizer's values, and what they answered."""

    __slots__ = (
        "answers",
        "asked",
        "compared",
        "index",
        "kept",
        "moved",
        "pending",
        "question",
        "raised",
        "sampling",
        "suspects",
        "touched",
        "weights",
    )

    def __init__(self) -> None:
        self.raised = False
        self.sampling = True
        self.kept: Tensor | None = None
        self.index = 0
        self.weights: Tensor | None = None
        self.moved: list[Tensor] = []
        self.suspects: list[int] = []
        self.pending: tuple[list[Tensor], Tensor | None] | None = None
        self.question = ""
        self.compared: Tensor | None = None  # whether a window's gradients are what its last backward left
        self.touched = False  # they were not, once
        self.asked: dict[str, int] = {}
        self.answers: dict[str, str] = {}

    def _asks(self, question: str) -> bool:
        """Whether the device is asked this time."""
        count = self.asked[question] = self.asked.get(question, 0) + 1
        return count <= ASKED or count & (count - 1) == 0

    def suspect(self) -> None:
        """Something looked wrong: from now on samples are kept."""
        self.raised = self.sampling = True

    # -- remembering -------------------------------------------------------------------------------------

    def remember(self, owner: Owner) -> None:
        """Keep a sample of one gradient as it is now, if values may be asked for; drop the old one in any case."""
        self.kept = None
        self.sampling = self.raised or owner.steps < SURE
        if not self.sampling:
            self.weights = None
            self.moved.clear()
        else:
            for i, ref in enumerate(owner.refs):
                sample = _sample(ref())
                if sample is not None:
                    self.index, self.kept = i, sample
                    return

    def remember_weights(self, owner: Owner) -> None:
        """Between two backwards of one update: were the weights moved, as SAM does?"""
        if not self.sampling:
            return
        sample = _sample(next(iter(owner.parameters()), None))
        if sample is not None and self.weights is not None and len(self.moved) < ASKED:
            with unseen():
                self.moved.append((sample != self.weights).any())
        self.weights = sample

    def used(self, owner: Owner) -> None:
        """After a step: its gradients are what the next suspicion is compared with."""
        self.weights = None
        if self.moved:
            self.moved.clear()
        self.remember(owner)

    # -- used gradients that a backward is about to add to -----------------------------------------------

    def before_backward(self, owner: Owner, site: int) -> None:
        """Prepare the question, without waiting for the device: it is put only if that backward adds to them.

        Args:
            owner: the optimizer whose gradients look stale.
            site: the call: before one of two backwards they may be cleared and before the other not.
        """
        states = owner.states()
        left = {state for state in set(states) if not state.written and (state.used or _is_claimed(state))}
        self.suspects = [i for i, state in enumerate(states) if state in left]
        self.pending = None
        self.question = f"stale {site}"
        if self.suspects and self._asks(self.question):
            step = max(1, len(self.suspects) // _TENSORS)
            held = [_holds(owner.refs[i]()) for i in self.suspects[::step]]
            self.pending = [each for each in held if each is not None], self._unchanged(owner)

    def verdict(self) -> str:
        """What the suspects were just before the backward that has added to them."""
        if self.pending is not None:
            holds, unchanged = self.pending
            if not any(_true(each) for each in holds):
                answer = CLEARED
            else:
                answer = STALE if unchanged is None or _true(unchanged) else WRITTEN
            self.answers[self.question] = answer
            self.pending = None
        return self.answers.get(self.question, STALE)

    # -- a step that found nothing new, or less than was made -----------------------------------------------

    def before_step(self, owner: Owner) -> str:
        """Whether what the step is about to use is what the last backward or step left: STALE, or WRITTEN unseen.

        CLEARED says that there is nothing but zeros.
        """
        reused = any(state.used for state in owner.states())
        fed = any(state.fresh for state in owner.states())
        question = "fed" if fed else "reused" if reused else "zeros"
        if self._asks(question):
            if question == "zeros":
                held = [_holds(ref()) for ref in owner.refs[: _TENSORS * 4]]
                answer = WRITTEN if any(_true(each) for each in held if each is not None) else CLEARED
            else:
                unchanged = self._unchanged(owner)
                moved = any(_true(each) for each in self.moved)
                answer = STALE if unchanged is not None and _true(unchanged) else WRITTEN
                if moved:
                    answer = _MOVED
                if unchanged is None:
                    answer = ""  # not remembered: it began late, and can be told the next time
            self.answers[question] = answer
        self.suspect()
        return WRITTEN if self.answers[question] == _MOVED else self.answers[question]

    def compare(self, owner: Owner) -> None:
        """Before the step of a window, while samples are kept: was anything written since its last backward?"""
        self.compared = self._unchanged(owner)

    def is_touched(self) -> bool:
        """Whether windows are scaled through `.data`; the answer to `compare` is read here."""
        compared, self.compared = self.compared, None
        if compared is not None and not _true(compared):
            self.touched = True
        return self.touched

    def hidden(self) -> list[str]:
        """What values gave away that versions did not: "cleared", "written"."""
        found = {answer for question, answer in self.answers.items() if question != "zeros" or answer != CLEARED}
        return sorted(found & {CLEARED, WRITTEN})

    def _unchanged(self, owner: Owner) -> Tensor | None:
        if self.kept is None or self.index >= len(owner.refs):
            return None
        now = _sample(owner.refs[self.index]())
        if now is None or now.shape != self.kept.shape or now.device != self.kept.device:
            return None
        with unseen():
            return (now == self.kept).logical_or(now.isnan() & self.kept.isnan()).all()


def _is_claimed(state: State) -> bool:
    """Whether another optimizer's step has used some of it: leftovers, unless they were cleared unseen."""
    return any(mark.claim is not None for mark in state.fresh)


def _sample(tensor: Tensor | None) -> Tensor | None:
    """A copy of the first elements; None of what holds none that can be compared."""
    if tensor is None or tensor.is_sparse or tensor.is_meta or hasattr(tensor, "_local_tensor"):
        return None
    try:
        with unseen():
            return tensor.detach().flatten()[:SAMPLE].clone()
    except (RuntimeError, NotImplementedError):
        return None


def _true(tensor: Tensor) -> bool:
    """The one read of a value, which waits for the device. A fake tensor has none: False."""
    try:
        with unseen():
            return bool(tensor)
    except (RuntimeError, NotImplementedError):
        return False


def _holds(tensor: Tensor | None) -> Tensor | None:
    """Whether a gradient has a value other than 0, as a tensor on its device."""
    if tensor is None:
        return None
    local: Tensor = getattr(tensor, "_local_tensor", tensor)  # asking a sharded tensor would start a collective
    try:
        with unseen():
            return (local.detach()._values() if local.is_sparse else local.detach()).any()
    except (RuntimeError, NotImplementedError):  # fake and meta tensors hold no values: nothing can be said
        return None
