"""Laying two rows of events beside each other, so that as much as can be stands opposite its like."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from loopkit.trace.recorded import TracedEvent, relative

_HEAVY = {"forward": 9, "backward": 10, "step": 10, "batch": 5}
"""What a loop turns on: where two events have changed places, the other one is said to have moved."""
_LIGHT = 2
_SAME_CODE = 1


@dataclass(frozen=True, slots=True)
class Token:
    """An event in a row, with its places.

    Args:
        word: its kind.
        events: of the trace.
        folder: from which paths are told.
        script: its name, which is the same whatever it is called.
    """

    word: str
    events: tuple[TracedEvent, ...]
    folder: str
    script: str

    def codes(self) -> list[str]:
        """What the user's lines say, whatever their numbers."""
        return list(dict.fromkeys(event.code for event in self.events))

    def lines(self) -> list[str]:
        """Where the calls stand."""
        places = [event.line for event in self.events]
        return list(dict.fromkeys(f"{relative(each.file, self.folder)}:{each.line}" for each in places if each))

    def where(self) -> str:
        """The first of its lines."""
        return next(iter(self.lines()), "(no line)")

    def spots(self) -> set[tuple[str, int]]:
        """Where the calls stand, for comparison."""
        places = [event.line for event in self.events]
        files = [(relative(each.file, self.folder), each.line) for each in places if each]
        return {("" if os.path.basename(file) == self.script else file, line) for file, line in files}

    def told(self) -> str:
        """Its lines, with what they say."""
        return f"{' / '.join(self.codes())} ({', '.join(self.lines())})"


def aligned(before: Sequence[Token], after: Sequence[Token]) -> list[tuple[Token | None, Token | None]]:
    """Pairs of what stands opposite; None where there is nothing. The heaviest common subsequence."""
    best = [[0] * (len(after) + 1) for _ in range(len(before) + 1)]
    for i in range(len(before) - 1, -1, -1):
        for j in range(len(after) - 1, -1, -1):
            best[i][j] = max(best[i + 1][j], best[i][j + 1], best[i + 1][j + 1] + _worth(before[i], after[j]))
    pairs: list[tuple[Token | None, Token | None]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        both = i < len(before) and j < len(after)
        if both and (worth := _worth(before[i], after[j])) and best[i][j] == best[i + 1][j + 1] + worth:
            pairs.append((before[i], after[j]))
            i, j = i + 1, j + 1
        elif i < len(before) and (j == len(after) or best[i][j] == best[i + 1][j]):
            pairs.append((before[i], None))
            i += 1
        else:
            pairs.append((None, after[j]))
            j += 1
    return pairs


def _worth(mine: Token, theirs: Token) -> int:
    if mine.word != theirs.word:
        return 0
    return 10 * _HEAVY.get(mine.word, _LIGHT) + _SAME_CODE * (mine.codes() == theirs.codes())
