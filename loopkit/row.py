"""The row of events an update consists of, as a line of text: what loopkit understood of a loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

ARROW = " → "
_FOLDED = 256  # events looked at for a row: enough to read, and folding stays linear
_LONGEST_REPEAT = 12


def row_of(words: Sequence[str], longest: int = _FOLDED) -> str:
    """`batch → (forward → backward) ×4 → step`: the words in order, repeats folded; of `longest` words at most."""
    words = list(words[:longest]) + (["…"] if len(words) > longest else [])
    parts: list[str] = []
    for block, times in folded(words):
        text = ARROW.join(block)
        if times > 1:
            text = f"{text} ×{times}" if len(block) == 1 else f"({text}) ×{times}"
        parts.append(text)
    return ARROW.join(parts)


def folded(words: Sequence[str]) -> list[tuple[tuple[str, ...], int]]:
    """The words as blocks, each with how often it stands there in a row."""
    blocks: list[tuple[tuple[str, ...], int]] = []
    at = 0
    while at < len(words):
        length, times = _repeat(words, at)
        blocks.append((tuple(words[at : at + length]), times))
        at += length * times
    return blocks


def _repeat(words: Sequence[str], at: int) -> tuple[int, int]:
    """The block at `at` whose repeats cover most: its length and how often it stands there."""
    best = (1, 1)
    for length in range(1, min(_LONGEST_REPEAT, (len(words) - at) // 2) + 1):
        block = words[at : at + length]
        times = 1
        while words[at + times * length : at + (times + 1) * length] == block:
            times += 1
        if times > 1 and length * times > best[0] * best[1]:
            best = (length, times)
    return best


class Rows:
    """Rows with their counts, the most frequent first."""

    def __init__(self) -> None:
        self._retired: Counter[str] = Counter()

    def retire(self, words: Iterable[str], count: int) -> None:
        """Keep the count of a signature that is about to be forgotten."""
        self._retired[row_of(tuple(words))] += count

    def table(self, occurrences: Mapping[tuple[str, ...], int]) -> list[tuple[str, int]]:
        """Each row and how many updates consisted of it; signatures that read alike are one row."""
        counts = Counter(self._retired)
        for words, count in occurrences.items():
            counts[row_of(words)] += count
        return counts.most_common()
