"""What checks in several processes of one run tell each other: plain values, written with each process's part.

No collective call is made for them: a rank that says nothing keeps nobody waiting. Who reports for all has what the
others had written last; any other process has its own alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


class Shares:
    """An instrument: `run.instrument(Shares)`.

    Attributes:
        mine: what this process tells, by the name of the rule; plain values that survive JSON, and not many: they
            are written again with every part.
    """

    def __init__(self) -> None:
        self.mine: dict[str, Any] = {}
        self._others: list[Mapping[str, Any]] = []

    def heard(self, others: Iterable[Mapping[str, Any]]) -> None:
        """Take in what the other processes told; a later call replaces an earlier one."""
        self._others = list(others)

    def of_all(self, name: str) -> list[Any]:
        """What each process told under a name, this one first."""
        return [each[name] for each in (self.mine, *self._others) if name in each]
