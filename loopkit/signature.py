"""The signature of an update: its events without their numbers, packed into integers.

One integer an event, because a signature is hashed at every update, and hashing an enum member runs Python code:
kind (4 bits) | which optimizer or scheduler << 4 (8 bits) | shape of its reading << 12 (20 bits) | `Site.bits`.
"""

from __future__ import annotations

from loopkit.update import Kind

Signature = tuple[int, ...]

KINDS = tuple(Kind)
EPOCH, BATCH, FORWARD, EVALUATION, BACKWARD, CLIP, UNSCALE, STEP, SKIP, SCHEDULER, ZERO_GRAD = range(len(KINDS))


def kind_of(code: int) -> Kind:
    """The kind of a packed event."""
    return KINDS[code & 15]


def subject_of(code: int) -> int:
    """Which optimizer or scheduler a packed event is about."""
    return code >> 4 & 255


def bits_of(subject: int) -> int:
    """Where a packed event holds which optimizer or scheduler it is about."""
    return min(subject, 255) << 4
