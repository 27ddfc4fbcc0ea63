"""A baseline: the findings of an old project that are known, so that only new ones are shown.

A finding is known again by its rule, its file, the function, the text of the line and the subject, not by the
line's number: code above it may grow.
"""

from __future__ import annotations

import json
import linecache
import os
from collections.abc import Iterable
from pathlib import Path

from loopkit.errors import UsageError
from loopkit.finding import Finding

SCHEMA = 1
REASON = "in the baseline"
Entry = tuple[str, str, str, str, str]
_FIELDS = ("rule", "file", "function", "text", "subject")


class Baseline:
    """The findings that are known.

    Args:
        folder: that of its file; files in it are relative to it.
        entries: what is known.
    """

    def __init__(self, folder: Path, entries: Iterable[Entry] = ()) -> None:
        self._folder = folder
        self.entries = frozenset(entries)

    @classmethod
    def read(cls, path: Path) -> Baseline:
        """From a file.

        Raises:
            UsageError: there is none, or it was not written by `--update-baseline`.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            hint = "; `--update-baseline` writes it" if isinstance(error, FileNotFoundError) else ""
            raise UsageError(f"cannot read the baseline {str(path)!r}: {error.strerror}{hint}") from None
        try:
            loaded = json.loads(text)
            if loaded["schema"] != SCHEMA:
                raise ValueError(f"schema {loaded['schema']}")
            entries = [tuple(str(each[name]) for name in _FIELDS) for each in loaded["findings"]]
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{str(path)!r} is no baseline of this version ({error!r}); `--update-baseline` writes it anew"
            ) from None
        return cls(path.absolute().parent, entries)  # type: ignore[arg-type]

    def knows(self, finding: Finding) -> bool:
        """Whether this finding is an old one."""
        return bool(self.entries) and self.entry(finding) in self.entries

    def entry(self, finding: Finding) -> Entry:
        """What stands for a finding."""
        place = finding.place
        if place is None:
            return finding.rule, "", "", "", finding.subject
        file = place.file
        if not file.startswith("<"):
            file = Path(os.path.relpath(file, self._folder)).as_posix()
        text = linecache.getline(place.file, place.line).strip()
        return finding.rule, file, place.function, text, finding.subject

    def write(self, path: Path, findings: Iterable[Finding]) -> int:
        """Make these findings the ones that are known; how many they are.

        Raises:
            UsageError: it cannot be written.
        """
        entries = sorted({self.entry(finding) for finding in findings})
        rows = [json.dumps(dict(zip(_FIELDS, entry, strict=True)), ensure_ascii=False) for entry in entries]
        body = ",\n    ".join(rows)
        text = f'{{\n  "schema": {SCHEMA},\n  "findings": [\n    {body}\n  ]\n}}\n' if rows else _EMPTY
        try:
            beside = path.with_name(f".{path.name}.{os.getpid()}")
            beside.write_text(text, encoding="utf-8")
            beside.replace(path)
        except OSError as error:
            raise UsageError(f"cannot write the baseline {str(path)!r}: {error.strerror}") from None
        return len(entries)


_EMPTY = f'{{\n  "schema": {SCHEMA},\n  "findings": []\n}}\n'
