"""The findings of a run, each with what its count is made of and which processes showed it.

One cause, one finding: symptoms (a loss that does not fall) are not shown beside an error that explains them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from loopkit.finding import Confidence, Finding, Severity
from loopkit.parts import Part
from loopkit.signature import Signature
from loopkit.silence import Filter, inline_reason

HERE = "this process"
_GRAVEST = [Severity.ERROR, Severity.WARNING, Severity.INFO]
_SUREST = [Confidence.PROOF, Confidence.FACT, Confidence.PROBE, Confidence.HEURISTIC]


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


class Findings:
    """What a run has found and shows.

    Args:
        filters: what a watch selects and ignores; watches that join bring more.
        inline: comments in the user's files silence too: where the run reports, and is no part of another's.
        symptoms: asked for the rules whose findings any error explains.

    Attributes:
        silenced: findings that are not shown, with the reason.
    """

    def __init__(
        self, filters: Sequence[Filter], *, inline: bool, symptoms: Callable[[], Collection[str]] = tuple
    ) -> None:
        self.silenced: list[tuple[Finding, str]] = []
        self._filters = filters
        self._inline = inline
        self._symptoms = symptoms
        self._explains: dict[tuple[object, ...], list[str]] = {}
        self._known: dict[tuple[object, ...], Found] = {}

    def add(self, finding: Finding, signature: Signature | None) -> bool:
        """Take one that was seen in this process; whether it is the first of its kind, and shown."""
        known = self._known.get(finding.key)
        is_new = known is None and self._is_shown(finding)
        if is_new:
            known = self._known[finding.key] = Found(finding)
        if known is not None:
            known.here(finding.rank, signature)
        if is_new and finding.severity is Severity.ERROR:
            self._explain(finding)
        return is_new

    def merge(self, parts: Mapping[str, Part]) -> list[Found]:
        """Take those of other processes, the lowest rank first; those that nobody had seen yet are returned."""
        new: list[Found] = []
        for name, part in sorted(parts.items(), key=lambda item: (item[1].rank is None, item[1].rank, item[0])):
            for finding in part.findings:
                known = self._known.get(finding.key)
                if known is None and self._is_shown(finding):
                    known = self._known[finding.key] = Found(finding)
                    new.append(known)
                    if finding.severity is Severity.ERROR:
                        self._explain(finding)
                if known is not None:
                    known.elsewhere(name, finding, part.process)
        return new

    def told(self, occurrences: Mapping[Signature, int]) -> list[Finding]:
        """Each with its count: the gravest first, of those the surest, of those the one that was seen first."""
        every = [self._with_symptoms(found.told(occurrences, HERE)) for found in self._known.values()]
        return sorted(
            every, key=lambda finding: (_GRAVEST.index(finding.severity), _SUREST.index(finding.confidence))
        )

    def worst(self) -> Severity | None:
        """The highest severity found, or None."""
        return min((found.finding.severity for found in self._known.values()), key=_GRAVEST.index, default=None)

    def _explain(self, cause: Finding) -> None:
        """An error was found: what it explains is no finding of its own any more."""
        if cause.rule in self._symptoms():
            return
        for key, found in list(self._known.items()):
            if found.finding.rule in self._symptoms():
                del self._known[key]
                self._silence(found.finding, self._explained(found.finding, cause))

    def _explained(self, symptom: Finding, cause: Finding) -> str:
        explains = self._explains.setdefault(cause.key, [])
        if symptom.rule not in explains:
            explains.append(symptom.rule)
        return f"explained by {cause.rule}"

    def _with_symptoms(self, finding: Finding) -> Finding:
        explains = self._explains.get(finding.key)
        if not explains:
            return finding
        return dataclasses.replace(finding, evidence={**finding.evidence, "explains": sorted(explains)})

    def _cause_of(self, finding: Finding) -> str | None:
        if finding.rule not in self._symptoms():
            return None
        errors = (found.finding for found in self._known.values() if found.finding.severity is Severity.ERROR)
        cause = next((each for each in errors if each.rule not in self._symptoms()), None)
        return self._explained(finding, cause) if cause is not None else None

    def _silence(self, finding: Finding, reason: str) -> None:
        if all(finding.key != silent.key for silent, _ in self.silenced):
            self.silenced.append((finding, reason))

    def _is_shown(self, finding: Finding) -> bool:
        """Whether nothing silences the finding; what does is kept."""
        reason = next((why for each in self._filters if (why := each.hides(finding))), None)
        reason = reason or (inline_reason(finding) if self._inline else None)
        reason = reason or self._cause_of(finding)
        if reason is not None:
            self._silence(finding, reason)
        return reason is None
