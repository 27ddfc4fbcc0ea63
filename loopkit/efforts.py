"""Whether steps move what they should, and leave alone what they should: looked at in updates whose graph is walked.

Samples come from the end of the forward (`weights.py`). They are compared on the device right after the step, before
anybody else can write; the answer is read when a check gets to see the step.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from loopkit.effect import Effect
from loopkit.samples import can_be_sampled, differ, sample_of
from loopkit.unseen import unseen

if TYPE_CHECKING:
    from torch import Tensor

    from loopkit.holdings import Owner

_FOLLOWED = 4
"""Parameters of one optimizer whose first sample is kept until any of them moves."""
_PUSH = 1e-5
"""A gradient times the rate of this size, next to the weight, would change bits of float32 a hundred times over."""
Pair = tuple["Tensor", "Tensor"]


class Effort:
    """What the steps of one optimizer did.

    Attributes:
        at: how many steps it had executed before the one that was looked at last.
    """

    __slots__ = ("_drifted", "_first", "_frozen", "_moves", "_rates", "_since", "_still", "at")

    def __init__(self) -> None:
        self.at = -1
        self._moves = False  # that is known now, and not asked again
        self._since = 0
        self._first: list[tuple[Callable[[], Tensor | None], Tensor]] = []
        self._still: Tensor | None = None
        self._frozen = 0
        self._drifted: Tensor | None = None
        self._rates: tuple[float, ...] = ()

    def stepped(self, owner: Owner, sampled: Sequence[Pair]) -> None:
        """A step was executed; `sampled` are parameters, each with its values from the end of the last forward."""
        self.at = owner.steps
        groups = getattr(owner.optimizer(), "param_groups", ())
        rates = [group.get("lr") for group in groups]
        self._rates = tuple(map(float, rates)) if all(isinstance(rate, (int, float)) for rate in rates) else ()
        with unseen():
            self._look_at_frozen(owner, sampled)
            if not self._moves:
                of = {id(each): group.get("lr") for group in groups for each in group["params"]}
                self._follow(owner, sampled, of)

    def told(self, owner: Owner) -> Effect:
        """In the words of checks; up to two answers are read from the device, until it is known that it moves."""
        with unseen():
            flags = [flag for flag in (self._still, self._drifted) if flag is not None]
            answers = torch.stack(flags).tolist() if flags else []
        still = bool(answers.pop(0)) if self._still is not None else False
        if self._still is not None and not still:
            self._moves, self._still, self._first = True, None, []
        unmoved = self.at + 1 - self._since if still else 0
        return Effect(owner.made, unmoved, len(self._first), self._frozen, bool(answers and answers[-1]), self._rates)

    def _look_at_frozen(self, owner: Owner, sampled: Sequence[Pair]) -> None:
        parameters, states = owner.parameters(), owner.states()
        self._drifted, self._frozen = None, 0
        if len(states) != len(parameters):
            return
        held = {
            id(each)
            for each, state in zip(parameters, states, strict=True)
            if not each.requires_grad and each.grad is not None and not state.fresh
        }
        self._frozen = len(held)
        moved = [_changed(each, sample) for each, sample in sampled if id(each) in held]
        if moved:
            self._drifted = torch.stack(moved).any()

    def _follow(self, owner: Owner, sampled: Sequence[Pair], rates: dict[int, object]) -> None:
        """Compare with what a few parameters were before the first step that was looked at."""
        pushed = {
            id(each): push
            for each, sample in sampled
            if (push := _push(each, sample, rates.get(id(each)))) is not None
        }
        if not self._first:
            followed = [pair for pair in sampled if id(pair[0]) in pushed][:_FOLLOWED]
            self._first = [(weakref.ref(each), sample) for each, sample in followed]
            self._since = owner.steps
        flags: list[Tensor] = [] if self._still is None else [self._still]
        for known, sample in self._first:
            parameter = known()
            if parameter is None or id(parameter) not in pushed:
                self._moves, self._still, self._first = True, None, []  # not to be judged
                return
            flags += [~_changed(parameter, sample), pushed[id(parameter)]]
        self._still = torch.stack(flags).all() if flags else None


def _changed(parameter: Tensor, sample: Tensor) -> Tensor:
    now = sample_of(parameter)
    if now.shape != sample.shape or now.dtype != sample.dtype or now.device != sample.device:
        return torch.ones((), dtype=torch.bool, device=sample.device)
    return differ(now, sample)


def _push(parameter: Tensor, sample: Tensor, rate: object) -> Tensor | None:
    """Whether a step should change this sample; None where it need not, or that is not known."""
    grad = parameter.grad
    if not isinstance(rate, float) or rate <= 0 or not parameter.requires_grad or grad is None:
        return None
    if parameter.dtype not in (torch.float32, torch.float64) or not can_be_sampled(grad):
        return None
    gradient = sample_of(grad)
    if gradient.shape != sample.shape:
        return None
    return (gradient.abs() * rate > sample.abs() * _PUSH).any()
