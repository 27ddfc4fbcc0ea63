"""Why a finding is not shown: not selected, ignored by name, or silenced by a comment on its line.

A comment silences its own line only, the one that the finding names, as `noqa` does: not the line below, not the
finding's other places. What is silenced can then be seen by looking at one line, and a comment that was left behind
when the line moved is known to silence nothing.
"""

from __future__ import annotations

import linecache
import re
import tokenize
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from loopkit.baseline import REASON, Baseline
from loopkit.config import Config, matches
from loopkit.errors import did_you_mean
from loopkit.finding import Finding, Place

_COMMENT = re.compile(r"#\s*loopkit:\s*ignore\[([^\]]*)\]\s*(.*)")


@dataclass(frozen=True, slots=True)
class Filter:
    """What a watch was told to show.

    Args:
        select: only these rules; None for all.
        ignore: not these.
        per_file: patterns of files, and the rules that are not shown in files that match.
        folder: which the patterns are relative to.
        baseline: findings that are known already.
    """

    select: frozenset[str] | None = None
    ignore: frozenset[str] = frozenset()
    per_file: Mapping[str, Collection[str]] = field(default_factory=dict)
    folder: Path = field(default_factory=Path.cwd)
    baseline: Baseline | None = None

    @classmethod
    def of(cls, select: Iterable[str] | None, ignore: Iterable[str], config: Config | None = None) -> Filter:
        """From what a user passed, and what a project has set for single files."""
        chosen = None if select is None else frozenset(select)
        if config is None:
            return cls(chosen, frozenset(ignore))
        known = Baseline.read(config.baseline) if config.baseline is not None else None
        return cls(chosen, frozenset(ignore), config.per_file_ignores, config.folder, known)

    def reason(self, rule: str) -> str | None:
        """Why no finding of `rule` is shown, or None when they are."""
        if rule in self.ignore:
            return "ignored by name"
        if self.select is not None and rule not in self.select:
            return "not selected"
        return None

    def hides(self, finding: Finding) -> str | None:
        """Why this finding is not shown, or None when it is."""
        reason = self.reason(finding.rule)
        if reason is None and finding.place is not None:
            patterns = [pattern for pattern, rules in self.per_file.items() if finding.rule in rules]
            hit = next((each for each in patterns if matches(finding.place.file, each, self.folder)), None)
            reason = f"ignored in {hit}" if hit is not None else None
        if reason is None and self.baseline is not None and self.baseline.knows(finding):
            reason = REASON
        return reason


def inline_reason(finding: Finding) -> str | None:
    """Why the comment on the finding's own line silences it, or None when none does.

    The line is the one the finding names: `loss.backward()  # loopkit: ignore[missing-zero-grad] on purpose`.
    """
    if finding.place is None:
        return None
    comment = _COMMENT.search(linecache.getline(finding.place.file, finding.place.line))
    if comment is None or finding.rule not in _slugs(comment):
        return None
    return comment[2].strip() or "silenced on its line"


@dataclass(frozen=True, slots=True)
class Silence:
    """One rule that a comment in the user's code names.

    Args:
        rule: the slug as it is written.
        place: the comment's line.
        alone: there is no code on that line, so no finding can be there.
        ran: an event of this run came from that line, or passed through it.
        used: it silenced a finding of this run.
        known: an installed or loaded check has the rule.
        nearest: for one that is not known, a clause that names the nearest that is, or "".
    """

    rule: str
    place: Place
    alone: bool
    ran: bool
    used: bool
    known: bool
    nearest: str


def silences(
    file: str, ran: Collection[int], silenced: Iterable[Finding], known: Collection[str]
) -> Iterator[Silence]:
    """What the comments of a file silence, rule by rule.

    Args:
        file: text in its strings is no comment, nor is code that was commented out.
        ran: its lines from which events came, or through which they passed.
        silenced: the findings that were not shown.
        known: the rules that there are.
    """
    used = {(each.rule, each.place.file, each.place.line) for each in silenced if each.place is not None}
    for line, alone, rule in _named(file):
        yield Silence(
            rule=rule,
            place=Place(file, line),
            alone=alone,
            ran=line in ran,
            used=(rule, file, line) in used,
            known=rule in known,
            nearest="" if rule in known else did_you_mean(rule, known),
        )


def _named(file: str) -> Iterator[tuple[int, bool, str]]:
    """The rules that comments name: the line, whether there is no code on it, and the slug."""
    try:
        with tokenize.open(file) as lines:
            tokens = list(tokenize.generate_tokens(lines.readline))
    except (OSError, SyntaxError, UnicodeDecodeError, tokenize.TokenError):
        return
    for token in tokens:
        if token.type == tokenize.COMMENT:
            alone = not token.line[: token.start[1]].strip()
            comment = (_COMMENT.match if alone else _COMMENT.search)(token.string)
            for slug in dict.fromkeys(_slugs(comment)) if comment else ():
                yield token.start[0], alone, slug


def _slugs(comment: re.Match[str]) -> list[str]:
    return [slug for slug in re.split(r"[\s,]+", comment[1]) if slug]
