"""Settings from `[tool.loopkit]` of a `pyproject.toml`: what `loopkit run` would otherwise be told each time.

The nearest file with such a table counts, from the script's folder upwards. Options of the command line go before
it: `--select` replaces its `select`, `--ignore` adds to its `ignore`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loopkit.errors import UsageError, did_you_mean

FILE, TABLE = "pyproject.toml", "tool.loopkit"
FAIL_ON = ("error", "warning", "never")

Thresholds = Mapping[str, Mapping[str, float]]
"""By rule, by name."""


@dataclass(frozen=True, slots=True)
class Config:
    """What a project has set.

    Args:
        folder: where the file stands; patterns of files are relative to it.
        select: report only these rules; None for all.
        ignore: do not report these.
        per_file_ignores: rules not reported in files that match a pattern, as `*`, `?` and `**` match.
        fail_on: what makes the exit code 1; None where nothing is said.
        plugins: `MODULE:NAME`, added.
        no_plugins: left out.
        thresholds: numbers of heuristics, by rule.
        baseline: the file of findings that are known already.
    """

    folder: Path = field(default_factory=Path.cwd)
    select: list[str] | None = None
    ignore: list[str] = field(default_factory=list)
    per_file_ignores: Mapping[str, list[str]] = field(default_factory=dict)
    fail_on: str | None = None
    plugins: list[str] = field(default_factory=list)
    no_plugins: list[str] = field(default_factory=list)
    thresholds: Thresholds = field(default_factory=dict)
    baseline: Path | None = None

    def rules(self) -> list[str]:
        """Every rule it names."""
        named = [*(self.select or []), *self.ignore, *self.thresholds]
        return named + [rule for rules in self.per_file_ignores.values() for rule in rules]


def nearest(start: Path) -> Config:
    """The settings that count for a script in the folder `start`.

    Raises:
        UsageError: the file cannot be read, or says what cannot be meant.
    """
    for folder in (start.absolute(), *start.absolute().parents):
        path = folder / FILE
        if path.is_file() and (table := _table(path)) is not None:
            return _config(table, path)
    return Config()


def read(path: Path) -> Config:
    """The settings of a file that was named.

    Raises:
        UsageError: it cannot be read, has no such table, or says what cannot be meant.
    """
    table = _table(path)
    if table is None:
        raise UsageError(f"{path} has no table [{TABLE}]")
    return _config(table, path)


def _table(path: Path) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file:
            table = tomllib.load(file).get("tool", {}).get("loopkit")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is no TOML: {error}") from None
    if table is not None and not isinstance(table, dict):
        raise UsageError(f"{path}: [{TABLE}] must be a table")
    return table


_KEYS = {
    "select": "select",
    "ignore": "ignore",
    "per-file-ignores": "per_file_ignores",
    "fail-on": "fail_on",
    "plugins": "plugins",
    "no-plugins": "no_plugins",
    "thresholds": "thresholds",
    "baseline": "baseline",
}


def _config(table: dict[str, Any], path: Path) -> Config:
    values: dict[str, Any] = {"folder": path.absolute().parent}
    for key, value in table.items():
        if key not in _KEYS:
            raise UsageError(
                f"{path}: unknown key {key!r} in [{TABLE}]{did_you_mean(key, _KEYS)} known: {', '.join(_KEYS)}"
            )
        values[_KEYS[key]] = _read(key, value, path)
    if values.get("baseline") is not None:
        values["baseline"] = values["folder"] / values["baseline"]
    return Config(**values)


def _read(key: str, value: Any, path: Path) -> Any:
    if key == "fail-on":
        if value not in FAIL_ON:
            raise UsageError(f"{path}: fail-on is one of {', '.join(FAIL_ON)}, not {value!r}")
        return value
    if key == "baseline":
        return _is(isinstance(value, str), value, f"{path}: baseline must be the name of a file")
    if key == "per-file-ignores":
        _is(isinstance(value, dict), value, f"{path}: per-file-ignores must be a table of patterns")
        return {
            pattern: _words(rules, f"{path}: per-file-ignores of {pattern!r}") for pattern, rules in value.items()
        }
    if key == "thresholds":
        _is(isinstance(value, dict), value, f"{path}: thresholds must be a table of rules")
        return {rule: _numbers(rule, given, path) for rule, given in value.items()}
    return _words(value, f"{path}: {key}")


def _is(holds: bool, value: Any, message: str) -> Any:
    if not holds:
        raise UsageError(f"{message}, not {value!r}")
    return value


def _words(value: Any, what: str) -> list[str]:
    holds = isinstance(value, list) and all(isinstance(word, str) for word in value)
    return list(_is(holds, value, f"{what} must be a list of words"))


def _numbers(rule: str, given: Any, path: Path) -> dict[str, float]:
    holds = isinstance(given, dict) and all(_is_number(number) for number in given.values())
    return dict(_is(holds, given, f"{path}: thresholds of {rule} must be a table of numbers"))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def tune(plugin: object, thresholds: Thresholds) -> None:
    """Give a check the numbers that were set for its rule: its attribute `thresholds`, replaced on the object.

    Raises:
        UsageError: it has no threshold of that name.
    """
    rule = str(getattr(plugin, "rule", ""))
    given = thresholds.get(rule)
    if not given:
        return
    own: Mapping[str, float] = getattr(plugin, "thresholds", {})
    for name in given:
        if name not in own:
            known = f"; known: {', '.join(own)}" if own else "; it has none"
            raise UsageError(f"{rule} has no threshold {name!r}{did_you_mean(name, own)}{known}")
    plugin.thresholds = {**own, **given}  # type: ignore[attr-defined]


def matches(file: str, pattern: str, folder: Path) -> bool:
    """Whether a file matches a pattern that is relative to `folder`; one without a slash matches in any folder."""
    path = Path(file)
    relative = path.relative_to(folder) if path.is_relative_to(folder) else path
    return any(_fits(relative.parts, each) for each in _alternatives(pattern))


def _alternatives(pattern: str) -> Iterable[tuple[str, ...]]:
    parts = tuple(pattern.strip("/").split("/"))
    yield parts
    if len(parts) == 1:
        yield ("**", *parts)
    yield (*parts, "**")  # a folder stands for all that is in it


def _fits(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    from fnmatch import fnmatchcase

    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_fits(parts[at:], pattern[1:]) for at in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])
