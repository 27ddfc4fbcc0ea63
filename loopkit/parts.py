"""What the processes of a run tell each other: a file for each, in a folder that lasts as long as the run.

Files are whole or not there (written beside, then renamed), and plain JSON: nothing is unpickled. The process that
reports claims the folder by renaming it, so no part is counted twice and none falls between: one that can no
longer be written is known to its writer.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from loopkit.finding import Finding
from loopkit.manager import Failure

_ENDING = ".json"


@dataclass(frozen=True, slots=True)
class Part:
    """What one process has seen so far.

    Args:
        process: what to call it: `rank 1`, `SpawnProcess-2`.
        pid: its number while it lives.
        rank: in its process group; None when it has none.
        steps: optimizer steps it executed.
        rows: the rows of events its updates consisted of, with counts.
        findings: with their counts.
        not_checked: rule and reason.
        failures: its plugins that failed.
        finished: whether it has closed; False for one that runs, or was killed.
        shares: what its checks tell those of other processes, by the name of the rule.
    """

    process: str
    pid: int
    rank: int | None
    steps: int
    rows: list[tuple[str, int]]
    findings: list[Finding]
    not_checked: list[tuple[str, str]]
    failures: list[Failure]
    finished: bool
    shares: Mapping[str, Any] = field(default_factory=dict)

    def to_text(self) -> str:
        """As JSON; evidence that JSON cannot hold becomes text."""
        values = {name: getattr(self, name) for name in self.__slots__}
        values["findings"] = [finding.to_dict() for finding in self.findings]
        values["failures"] = [[each.plugin, each.when, each.error] for each in self.failures]
        return json.dumps(values, default=repr)

    @classmethod
    def from_text(cls, text: str) -> Part:
        """The inverse of `to_text`.

        Raises:
            ValueError, KeyError, TypeError: it is not a part's text.
        """
        values: Mapping[str, Any] = json.loads(text)
        return cls(
            process=values["process"],
            pid=values["pid"],
            rank=values["rank"],
            steps=values["steps"],
            rows=[(row, count) for row, count in values["rows"]],
            findings=[Finding.from_dict(finding) for finding in values["findings"]],
            not_checked=[(rule, why) for rule, why in values["not_checked"]],
            failures=[Failure(*each) for each in values["failures"]],
            finished=values["finished"],
            shares=values["shares"],
        )


class Folder:
    """The run's folder.

    Args:
        path: where it is; no two runs share one.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def make(self) -> None:
        """Make it, or accept the one that a process beside us has made.

        Raises:
            OSError: it cannot be made, or is not ours: its name may be guessed.
        """
        try:
            os.mkdir(self.path, 0o700)
        except FileExistsError:
            found = os.lstat(self.path)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                raise
        # Told at once, not at the first finding, that nothing can be written here.
        if not os.access(self.path, os.W_OK):
            raise PermissionError(f"cannot write in {self.path}")

    def write(self, name: str, part: Part) -> None:
        """Write a process's part anew. Makes no folder: one that is gone has been claimed.

        Raises:
            OSError: it cannot be written.
        """
        partial = os.path.join(self.path, f".{name}.{os.getpid()}")
        with open(partial, "w", encoding="utf-8") as file:
            file.write(part.to_text())
        os.replace(partial, os.path.join(self.path, name + _ENDING))

    def read(self) -> dict[str, Part]:
        """Every part, by name; those that cannot be read are left out."""
        found: dict[str, Part] = {}
        try:
            names = sorted(os.listdir(self.path))
        except OSError:
            return found
        for name in names:
            if name.endswith(_ENDING) and not name.startswith("."):
                try:
                    with open(os.path.join(self.path, name), encoding="utf-8") as file:
                        found[name.removesuffix(_ENDING)] = Part.from_text(file.read())
                except (OSError, ValueError, KeyError, TypeError):
                    continue
        return found

    def claim(self) -> Folder | None:
        """Take the folder away from all others; None when another process has."""
        taken = f"{self.path}.{os.getpid()}"
        try:
            os.rename(self.path, taken)
        except OSError:
            return None
        return Folder(taken)

    def remove(self) -> None:
        """Delete it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
