"""Why a finding is not shown: not selected, ignored by name, or silenced by a comment on its line."""

from __future__ import annotations

import linecache
import re
from collections.abc import Iterable
from dataclasses import dataclass

from loopkit.finding import Finding

_COMMENT = re.compile(r"#\s*loopkit:\s*ignore\[([^\]]*)\]\s*(.*)")


@dataclass(frozen=True, slots=True)
class Filter:
    """What a watch was told to show.

    Args:
        select: only these rules; None for all.
        ignore: not these.
    """

    select: frozenset[str] | None = None
    ignore: frozenset[str] = frozenset()

    @classmethod
    def of(cls, select: Iterable[str] | None, ignore: Iterable[str]) -> Filter:
        """From what a user passed."""
        return cls(None if select is None else frozenset(select), frozenset(ignore))

    def reason(self, rule: str) -> str | None:
        """Why a finding of `rule` is not shown, or None when it is."""
        if rule in self.ignore:
            return "ignored by name"
        if self.select is not None and rule not in self.select:
            return "not selected"
        return None


def inline_reason(finding: Finding) -> str | None:
    """Why the comment on the finding's own line silences it, or None when none does.

    The line is the one the finding names: `loss.backward()  # loopkit: ignore[missing-zero-grad] on purpose`.
    """
    if finding.place is None:
        return None
    comment = _COMMENT.search(linecache.getline(finding.place.file, finding.place.line))
    if comment is None or finding.rule not in re.split(r"[\s,]+", comment[1].strip()):
        return None
    return comment[2].strip() or "silenced on its line"
