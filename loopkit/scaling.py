"""What a GradScaler did: whose gradients it divided, by how much, and which steps it executed."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from loopkit.signature import STEP
from loopkit.unseen import unseen
from loopkit.update import UnscaleReading

if TYPE_CHECKING:
    from loopkit.holdings import Owner

BY_SCALER = 1 << 14
"""Bit of the shape of a step that a GradScaler executed."""
_SHAPE_AT = 12


class RawUnscale(NamedTuple):
    """An unscaling before anybody asked to know."""

    owner: Owner
    scale: Any
    plain: bool


def unscaled_by(scaler: Any, owner: Owner) -> RawUnscale | None:
    """What a scaler has divided; None where it is disabled and divides nothing."""
    if not getattr(scaler, "_enabled", True):
        return None
    plain = type(scaler).scale is torch.amp.GradScaler.scale
    return RawUnscale(owner, getattr(scaler, "_scale", None), plain)


def told_of_unscaling(raw: RawUnscale) -> UnscaleReading:
    """In the words of checks; the scale is read here."""
    return UnscaleReading(raw.owner.label, raw.owner.number, scale_of(raw.scale), raw.plain)


def scale_of(scale: Any) -> float | None:
    """The number a scale is; None where there is none that can be read."""
    if not isinstance(scale, torch.Tensor) or scale.is_meta:
        return float(scale) if isinstance(scale, (int, float)) else None
    try:
        with unseen():
            return float(scale.detach())
    except (RuntimeError, NotImplementedError):
        return None


def mark_steps(events: list[Any], start: int) -> None:
    """The steps among `events` from `start` on were executed by a GradScaler."""
    for at in range(min(start, len(events)), len(events)):
        code, site, raw = events[at]
        if code & 15 == STEP and isinstance(raw, tuple):
            owner, shape, *rest = raw
            events[at] = code | BY_SCALER << _SHAPE_AT, site, (owner, shape | BY_SCALER, *rest)


class Scales:
    """The scales of the run's GradScalers, held weakly. An instrument, fed by the tap.

    Attributes:
        plain: all of them scale and step as torch's own does, so that both are heard.
    """

    def __init__(self) -> None:
        self.plain = True
        self._known: list[Callable[[], Any]] = []

    def met(self, scaler: Any) -> None:
        """A scaler, as its `scale` is called."""
        scale = getattr(scaler, "_scale", None)
        if isinstance(scale, torch.Tensor) and all(known() is not scale for known in self._known):
            self._known = [known for known in self._known if known() is not None]
            self._known.append(weakref.ref(scale))
            own, torchs = type(scaler), torch.amp.GradScaler
            self.plain = self.plain and own.scale is torchs.scale and own.step is torchs.step

    def in_use(self) -> bool:
        """Whether any that scales a loss is alive."""
        return any(known() is not None for known in self._known)

    def now(self) -> list[float]:
        """What they are; waits for the device."""
        found = [scale_of(known()) for known in self._known]
        return [scale for scale in found if scale is not None]
