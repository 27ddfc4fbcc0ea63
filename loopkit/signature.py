"""The signature of an update: its events without their numbers, packed into integers.

One integer an event, because a signature is hashed at every update, and hashing an enum member runs Python code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loopkit.update import Kind

if TYPE_CHECKING:
    from loopkit.callsite import Site

Signature = tuple[int, ...]

KINDS = tuple(Kind)
BATCH, FORWARD, EVALUATION, BACKWARD, CLIP, UNSCALE, STEP, SKIP, SCHEDULER, ZERO_GRAD = range(len(KINDS))


def pack(kind: int, site: Site | None = None, subject: int = 0, shape: int = 0) -> int:
    """An event as an integer.

    Args:
        kind: its place in `KINDS`; 4 bits.
        site: where; its number takes the highest bits.
        subject: which optimizer or scheduler; 8 bits.
        shape: of its reading; 20 bits.
    """
    number = 0 if site is None else site.number + 1
    return kind | min(subject, 255) << 4 | shape << 12 | number << 32


def kind_of(code: int) -> Kind:
    """The kind of a packed event."""
    return KINDS[code & 15]


def subject_of(code: int) -> int:
    """Which optimizer or scheduler a packed event is about."""
    return code >> 4 & 255
