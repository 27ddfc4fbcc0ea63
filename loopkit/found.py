"""A finding of a run, with what its count is made of and which processes showed it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from loopkit.finding import Finding
from loopkit.signature import Signature


class Found:
    """A finding and its repeats, in this process and in others.

    Args:
        finding: as it was first reported.
    """

    def __init__(self, finding: Finding) -> None:
        self.finding = finding
        self._times = 0
        self._signatures: set[Signature] = set()
        self._here: list[int | None] = []
        self._elsewhere: dict[str, tuple[int | None, str, int]] = {}

    def here(self, rank: int | None, signature: Signature | None) -> None:
        """Seen in this process: a signature stands for all its updates."""
        self._here = [rank]
        if signature is None:
            self._times += 1
        else:
            self._signatures.add(signature)

    def elsewhere(self, part: str, finding: Finding, process: str) -> None:
        """Seen in another process, as often as it counts by now; what its part said before no longer counts."""
        self._elsewhere[part] = finding.rank, process, finding.count

    def told(self, occurrences: Mapping[Signature, int], process: str) -> Finding:
        """The finding with its count, its lowest rank, and in the evidence who else showed it.

        Args:
            occurrences: how often each signature occurred in this process.
            process: what this process is called.
        """
        count = self._times + sum(occurrences.get(signature, 0) for signature in self._signatures)
        count += sum(times for _, _, times in self._elsewhere.values())
        told = dataclasses.replace(self.finding, count=max(1, count))
        if not self._elsewhere:
            return told
        origins = [(rank, name) for rank, name, _ in self._elsewhere.values()]
        origins += [(rank, process) for rank in self._here]
        ranks = sorted({rank for rank, _ in origins if rank is not None})
        names = sorted({name for rank, name in origins if rank is None})
        evidence: dict[str, Any] = dict(told.evidence)
        if ranks:
            evidence["ranks"] = ranks
        if names:
            evidence["processes"] = names
        return dataclasses.replace(told, rank=ranks[0] if ranks else None, evidence=evidence)
