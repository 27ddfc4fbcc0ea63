"""Layers all of whose units are one and the same: they were initialized alike, and no step has told them apart.

A corner of each weight is compared with its first row, on its device. Almost every layer is out at the first look.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from loopkit.ledger import Ledger
from loopkit.models import Models
from loopkit.samples import can_be_sampled, differ
from loopkit.unseen import unseen

if TYPE_CHECKING:
    from torch import Tensor

_CORNER = 64
"""Rows and columns of a weight that are compared."""
_LAYERS = 256
_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers that hold one unit, or one channel, a row."""


@dataclass(frozen=True, slots=True)
class Twins:
    """A layer whose units were equal at two looks.

    Args:
        name: of its weight: `Net.hidden.weight`.
        units: how many.
        moved: its weight has changed in between, so they are trained, all of them alike.
        stuck: it has not, is 0, and should have: the layer was called, and its optimizer steps with a rate.
    """

    name: str
    units: int
    moved: bool
    stuck: bool


class _Known(NamedTuple):
    name: str
    weight: Callable[[], Tensor | None]
    corner: Tensor
    module: Callable[[], nn.Module | None]
    zero: bool


class Symmetry:
    """Looks for such layers, and follows those that it finds."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._known: list[_Known] = []
        self._rates: dict[int, object] = {}

    def look(self, models: Models, ledger: Ledger) -> list[Twins]:
        """The layers that were equal when they were first looked at, and are now.

        Reads one answer for each layer that was not looked at before or was equal then, in one transfer.
        """
        with unseen(), torch.no_grad():
            self._rates = {
                id(each): group.get("lr")
                for owner in ledger.owners()
                for group in getattr(owner.optimizer(), "param_groups", ())
                for each in group["params"]
            }
            followed = self._follow(models)
            self._known = [known for known, _ in followed]
            self._look_at_new(models)
            return [twins for _, twins in followed]

    def _is_stuck(self, known: _Known, weight: Tensor, models: Models) -> bool:
        module, rate = known.module(), self._rates.get(id(weight))
        trained = weight.requires_grad and isinstance(rate, float) and rate > 0
        return known.zero and trained and module is not None and models.was_called(module)

    def _follow(self, models: Models) -> list[tuple[_Known, Twins]]:
        alive = [(known, weight) for known in self._known if (weight := known.weight()) is not None]
        corners = [_corner(weight) for _, weight in alive]
        answers = _read(
            [
                flag
                for (known, _), now in zip(alive, corners, strict=True)
                for flag in (_same(now), _moved(known, now))
            ]
        )
        found = []
        for at, (known, weight) in enumerate(alive):
            same, moved = answers[2 * at], answers[2 * at + 1]
            if same:
                stuck = not moved and self._is_stuck(known, weight, models)
                found.append((known, Twins(known.name, len(weight), moved, stuck)))
        return found

    def _look_at_new(self, models: Models) -> None:
        new: list[tuple[str, Tensor, nn.Module]] = []
        for spot in models.modules():
            if not isinstance(spot.module, _KINDS) or len(new) >= _LAYERS:
                continue
            # Not as an attribute: that of a parametrized layer is computed, and spectral norm counts how often.
            weight = spot.module._parameters.get("weight")
            if weight is None or id(weight) not in self._rates or id(weight) in self._seen:
                continue
            self._seen.add(id(weight))
            if weight.requires_grad and len(weight) > 1 and can_be_sampled(weight):
                new.append((f"{spot.name}.weight", weight, spot.module))
        corners = [_corner(weight) for _, weight, _ in new]
        answers = _read([flag for corner in corners for flag in (_same(corner), ~corner.any())])
        for at, ((name, each, module), corner) in enumerate(zip(new, corners, strict=True)):
            if answers[2 * at]:
                zero = answers[2 * at + 1]
                self._known.append(_Known(name, weakref.ref(each), corner.clone(), weakref.ref(module), zero))


def _corner(weight: Tensor) -> Tensor:
    return weight.detach().flatten(1)[:_CORNER, :_CORNER]


def _same(corner: Tensor) -> Tensor:
    return (corner == corner[:1]).all()


def _moved(known: _Known, now: Tensor) -> Tensor:
    if now.shape != known.corner.shape or now.device != known.corner.device:
        return torch.zeros((), dtype=torch.bool, device=now.device)
    return differ(now, known.corner)


def _read(flags: list[Tensor]) -> list[bool]:
    """The answers, in one transfer from each device."""
    answers: dict[int, bool] = {}
    for device in dict.fromkeys(flag.device for flag in flags):
        here = [at for at, flag in enumerate(flags) if flag.device == device]
        answers |= zip(here, torch.stack([flags[at] for at in here]).tolist(), strict=True)
    return [answers[at] for at in range(len(flags))]
