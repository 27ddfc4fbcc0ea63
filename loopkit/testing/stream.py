"""What a run told its checks, as a value that can be kept as JSON: no torch is needed to write, read or replay it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loopkit import effect, lossnodes, lossreading, schedule, strays, update
from loopkit.callsite import Site
from loopkit.errors import UsageError
from loopkit.finding import Place
from loopkit.update import Kind, Update

SCHEMA = 1
_MODULES = (update, lossreading, lossnodes, schedule, effect, strays)
RECORDS: Mapping[str, type[Any]] = {
    name: value
    for module in _MODULES
    for name, value in vars(module).items()
    if isinstance(value, type) and dataclasses.is_dataclass(value)
}
"""Everything an update may be made of, by name."""


@dataclass(frozen=True, eq=False)
class Stream:
    """The updates a run told, in order.

    Two streams are equal if they say the same: the sites in them, which a run compares by identity, are made anew
    when a stream is read.

    Args:
        updates: as `update_finished` was given them: the 1st, 2nd, 4th, 8th … of each shape.
        open: what happened after the last executed step, as `run.open_update()` gives it at the end; None if nothing.
    """

    updates: tuple[Update, ...]
    open: Update | None = None

    def to_json(self) -> str:
        """As text, a line for each site and update."""
        writer = _Writer()
        updates = [json.dumps(writer.plain(each), allow_nan=False) for each in self.updates]
        last = json.dumps(writer.plain(self.open), allow_nan=False)
        sites = [json.dumps(each) for each in writer.sites]
        return (
            f'{{"schema": {SCHEMA},\n"sites": [\n{_lines(sites)}],\n'
            f'"updates": [\n{_lines(updates)}],\n"open": {last}}}\n'
        )

    @classmethod
    def from_json(cls, text: str) -> Stream:
        """The inverse of `to_json`.

        Raises:
            UsageError: it is no stream, or one of a version that had other records.
        """
        try:
            values = json.loads(text)
            if values["schema"] != SCHEMA:
                raise ValueError(f"schema {values['schema']}")
            read = _Reader([_site(each) for each in values["sites"]]).value
            return cls(read(values["updates"]), read(values["open"]))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise UsageError(f"not a stream of this version of loopkit ({error!r}): record it anew") from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.to_json())


def _lines(rows: Sequence[str]) -> str:
    return ",\n".join(rows) + "\n" * bool(rows)


class _Writer:
    """Turns records into plain values, and their sites into a table."""

    def __init__(self) -> None:
        self.sites: list[dict[str, Any]] = []
        self._numbers: dict[int, int] = {}

    def plain(self, value: Any) -> Any:
        """A value that JSON can hold. Fields that have their default are left out: later ones then do not matter."""
        if isinstance(value, Kind):
            return {"kind": str(value)}
        if isinstance(value, float) and not math.isfinite(value):
            return {"float": repr(float(value))}
        if value is None or isinstance(value, str | int | float):
            return value
        if isinstance(value, tuple | list):
            return [self.plain(each) for each in value]
        if isinstance(value, Site):
            return {"site": self._number(value)}
        name = type(value).__name__
        if RECORDS.get(name) is not type(value):
            raise UsageError(f"a stream cannot hold a {name}: add its module to loopkit/testing/stream.py")
        fields = {each.name: (each.default, getattr(value, each.name)) for each in dataclasses.fields(value)}
        given = {name: self.plain(said) for name, (default, said) in fields.items() if not _is(said, default)}
        return {"is": name, **given}

    def _number(self, site: Site) -> int:
        number = self._numbers.get(id(site))
        if number is None:
            number = self._numbers[id(site)] = len(self.sites)
            framework = site.framework.to_dict() if site.framework is not None else None
            self.sites.append(
                {
                    "number": site.number,
                    "spot": site.spot,
                    "place": site.place.to_dict(),
                    "chain": [place.to_dict() for place in site.chain],
                    "framework": framework,
                }
            )
        return number


def _is(value: Any, default: Any) -> bool:
    """Whether a value is its default: equal, and of one type, since 0, 0.0 and False are equal."""
    return type(value) is type(default) and bool(value == default)


class _Reader:
    """The inverse of `_Writer`: what it made a table of is one object again."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self._sites = sites

    def value(self, plain: Any) -> Any:
        """What was written."""
        if isinstance(plain, list):
            return tuple([self.value(each) for each in plain])
        if not isinstance(plain, dict):
            return plain
        if "is" in plain:
            return RECORDS[plain["is"]](**{name: self.value(each) for name, each in plain.items() if name != "is"})
        if "site" in plain:
            return self._sites[plain["site"]]
        return Kind(plain["kind"]) if "kind" in plain else float(plain["float"])


def _site(values: Mapping[str, Any]) -> Site:
    chain = tuple([Place.from_dict(place) for place in values["chain"]])
    framework = Place.from_dict(values["framework"]) if values["framework"] is not None else None
    return Site(values["number"], values["spot"], Place.from_dict(values["place"]), chain, framework, ())
