"""What a check says: one diagnosis, with its place, its proof and its repair."""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

_ORDER = {"info": 0, "warning": 1, "error": 2}


class Severity(enum.StrEnum):
    """How much harm a finding does. Follows the harm, not the certainty."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    def at_least(self, other: Severity) -> bool:
        """Whether this is as severe as `other` or more."""
        return _ORDER[self] >= _ORDER[other]


class Confidence(enum.StrEnum):
    """How the finding is known."""

    PROOF = "proof"  #: follows from state or structure
    FACT = "fact"  #: the state is proven; whether it is meant is the author's to say
    HEURISTIC = "heuristic"  #: a threshold
    PROBE = "probe"  #: an extra forward or backward that was asked for


@dataclass(frozen=True, slots=True)
class Place:
    """A line of code: absolute file name, line counted from 1, and the function it stands in."""

    file: str
    line: int
    function: str = "<module>"

    def __str__(self) -> str:
        """`train.py:42`, for use inside a sentence; sinks show the path."""
        return f"{os.path.basename(self.file)}:{self.line}"

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {"file": self.file, "line": self.line, "function": self.function}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Place:
        """The inverse of `to_dict`."""
        return cls(str(values["file"]), int(values["line"]), str(values.get("function", "<module>")))


def _frozen(evidence: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(dict(evidence))


@dataclass(frozen=True, slots=True)
class Finding:
    """One diagnosis.

    Args:
        rule: the slug of its kind, such as `missing-zero-grad`.
        severity: how much harm it does.
        confidence: how it is known.
        seen: what was seen, with numbers.
        why: why it matters.
        remedy: what to try.
        place: the user's own line; None where no single line is to blame.
        places: the other ends (the step that had used the gradients, the clear that wiped them).
        subject: which optimizer, module or loader; findings of one rule, place and subject are one.
        evidence: plain values that back the claim; must survive JSON.
        step: executed optimizer steps when it was seen; `Run.report` fills it in.
        count: how many updates showed it.
        rank: the process that saw it, under a distributed launcher.
    """

    rule: str
    severity: Severity
    confidence: Confidence
    seen: str
    why: str
    remedy: str
    place: Place | None = None
    places: Mapping[str, Place] = field(default_factory=dict)
    subject: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    step: int | None = None
    count: int = 1
    rank: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "places", _frozen(self.places))
        object.__setattr__(self, "evidence", _frozen(self.evidence))

    def __hash__(self) -> int:
        return hash((self.key, self.step, self.count, self.seen))

    @property
    def key(self) -> tuple[str, Place | None, str]:
        """What makes two findings the same one: rule, place and subject."""
        return (self.rule, self.place, self.subject)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, under the field names of the JSON report."""
        return {
            "rule": self.rule,
            "severity": str(self.severity),
            "confidence": str(self.confidence),
            "file": self.place.file if self.place else None,
            "line": self.place.line if self.place else None,
            "function": self.place.function if self.place else None,
            "step": self.step,
            "count": self.count,
            "subject": self.subject,
            "message": self.seen,
            "why": self.why,
            "try": self.remedy,
            "places": {name: place.to_dict() for name, place in self.places.items()},
            "evidence": dict(self.evidence),
            "rank": self.rank,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Finding:
        """The inverse of `to_dict`.

        Raises:
            KeyError: a field of the report is missing.
        """
        return cls(
            rule=values["rule"],
            severity=Severity(values["severity"]),
            confidence=Confidence(values["confidence"]),
            seen=values["message"],
            why=values["why"],
            remedy=values["try"],
            place=Place.from_dict(values) if values["file"] is not None else None,
            places={name: Place.from_dict(place) for name, place in values["places"].items()},
            subject=values["subject"],
            evidence=values["evidence"],
            step=values["step"],
            count=values["count"],
            rank=values["rank"],
        )
