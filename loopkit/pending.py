"""Gradients that no step has used, noted while they are made: when the run ends nothing is left to look at.

Only as long as no step was executed in the run at all, and only after the 2nd, 4th, 8th … backward. Samples of the
parameters say whether anybody moves them without an optimizer; the answers stay on the device until asked for.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

import torch

from loopkit.samples import can_be_sampled, differ, sample_of
from loopkit.unseen import unseen
from loopkit.update import Pending

if TYPE_CHECKING:
    from torch import Tensor

    from loopkit.callsite import Site
    from loopkit.holdings import Owner
    from loopkit.ledger import Ledger

_TENSORS = 16
"""Parameters of each optimizer of which a sample is kept."""


class _Noted:
    """What is known of one optimizer that has never stepped."""

    def __init__(self, owner: Owner) -> None:
        self.number = owner.number
        self.label = owner.label
        self.parameters = len(owner.versions)
        self.fed = 0
        self.since = 0
        self.samples: list[tuple[weakref.ref[Tensor], Tensor]] = []
        self.moved: Tensor | None = None


class Waiting:
    """Which optimizers are fed by one backward after the other while none steps."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._noted: dict[int, _Noted] = {}
        self._backwards = 0
        self._takes_gradient = False
        self._site: Site | None = None

    def backward_ended(self, site: Site, takes_gradient: bool) -> None:
        """A backward ended; no step was executed yet. `takes_gradient`: the model's input does, as in an attack."""
        self._backwards += 1
        self._takes_gradient = self._takes_gradient or takes_gradient
        self._site = site
        if self._backwards > 1 and self._backwards & (self._backwards - 1) == 0:
            for owner in self._ledger.owners():
                self._note(owner)

    def _note(self, owner: Owner) -> None:
        fed = sum(bool(state.fresh) and not state.written for state in owner.states())
        noted = self._noted.get(owner.number)
        if noted is None or noted.label != owner.label or noted.parameters != len(owner.versions):
            noted = self._noted[owner.number] = _Noted(owner)
            noted.since = self._backwards
            parameters = [each for each in owner.parameters() if can_be_sampled(each)]
            for each in parameters[:: max(1, -(-len(parameters) // _TENSORS))]:
                if each.device == parameters[0].device:
                    noted.samples.append((weakref.ref(each), sample_of(each)))
        noted.fed = fed
        for parameter, sample in noted.samples:
            now = parameter()
            if now is None or not can_be_sampled(now) or sample_of(now).shape != sample.shape:
                noted.samples = []  # replaced or converted: not known
                return
            with unseen():
                moved = differ(sample_of(now), sample)
                noted.moved = moved if noted.moved is None else noted.moved | moved

    def told(self) -> tuple[Pending, ...]:
        """What is known of each optimizer that was fed, in the words of checks."""
        return tuple(
            Pending(
                optimizer=each.label,
                number=each.number,
                parameters=each.parameters,
                fed=each.fed,
                backwards=self._backwards,
                unmoved=_is_false(each.moved) if each.samples else None,
                takes_gradient=self._takes_gradient,
                site=self._site,
            )
            for each in self._noted.values()
            if self._site is not None
        )


def _is_false(flag: Tensor | None) -> bool | None:
    """The one read of a value; None where it cannot be read."""
    if flag is None:
        return None
    with unseen(), torch.no_grad():
        return not bool(flag)
