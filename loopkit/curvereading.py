"""What a learning curve says, as plain data."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


class CurveKind(enum.StrEnum):
    """What a curve looks like; the value is the word users read."""

    OVERFITTING = "overfitting"
    UNDERFITTING = "underfitting"
    ERRATIC = "erratic"
    DIVERGING = "diverging"
    TOO_LOW = "validation too low"
    DROP = "plateau then drop"
    STILL_FALLING = "still falling"
    FLAT = "flat"
    HEALTHY = "healthy"
    TOO_SHORT = "too short to read"

    @property
    def sick(self) -> bool:
        """Whether it asks for a change, rather than for patience or nothing."""
        return self in _SICK


_SICK = {
    CurveKind.OVERFITTING,
    CurveKind.UNDERFITTING,
    CurveKind.ERRATIC,
    CurveKind.DIVERGING,
    CurveKind.TOO_LOW,
}


@dataclass(frozen=True, slots=True)
class CurveReading:
    """One thing a learning curve says.

    Args:
        kind: which.
        curve: whose: "training" or "validation".
        began: the step at which it began; None where it holds for the whole curve.
        seen: what was seen, with numbers.
        remedy: what to try.
        numbers: what it was judged by, in the units that were logged.
    """

    kind: CurveKind
    curve: str
    began: float | None
    seen: str
    remedy: str
    numbers: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", MappingProxyType(dict(self.numbers)))

    def to_dict(self) -> dict[str, object]:
        """As plain values, for JSON."""
        return {
            "kind": str(self.kind),
            "curve": self.curve,
            "began": self.began,
            "seen": self.seen,
            "try": self.remedy,
            "numbers": dict(self.numbers),
        }
