"""`History`: the numbers of a training as a plain record."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch

from loopkit.errors import UsageError
from loopkit.hookspecs import hookimpl

_SCHEMA = 1
_WAITING = 1024  # numbers on a device are read that many at once
_SPELLED = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class Row(NamedTuple):
    """One number.

    Args:
        step: optimizer steps that were executed when it was taken.
        name: such as "train/loss".
        value: the number; not a number where training gave none.
    """

    step: int
    name: str
    value: float


class History:
    """What was logged in a training, in the order it came.

    It has a length, and yields its rows. Two histories are equal when their rows are, "not a number" being equal
    to itself. Tensors on a device are read many at once: when a thousand of them wait, or when somebody asks.
    """

    def __init__(self) -> None:
        self._rows: list[tuple[int, str, float]] = []
        self._waiting: list[tuple[int, torch.Tensor]] = []

    def add(self, name: str, value: Any, step: int) -> None:
        """Append a number: a float, or a tensor of one element, which is read later where that means waiting."""
        if not isinstance(value, torch.Tensor) or value.is_cpu:
            self._rows.append((step, name, float(value)))
            return
        self._waiting.append((len(self._rows), value.detach()))
        self._rows.append((step, name, math.nan))
        if len(self._waiting) >= _WAITING:
            self._read()

    @property
    def rows(self) -> list[Row]:
        """All rows: step, name, value."""
        self._read()
        return [Row(*row) for row in self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, History) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"History({len(self)} rows: {', '.join(self.names())})"

    def names(self) -> list[str]:
        """The names that were logged, in the order they first came."""
        return list(dict.fromkeys(name for _, name, _ in self._rows))

    def of(self, name: str) -> list[tuple[int, float]]:
        """The steps and values of one name; none where it was never logged."""
        return [(row.step, row.value) for row in self.rows if row.name == name]

    def to_dict(self) -> dict[str, Any]:
        """A form that JSON can hold: `{"schema": 1, "rows": [[step, name, value], …]}`.

        A value that is not finite is spelled "nan", "inf" or "-inf", for which JSON has no number.
        """
        rows = [[step, name, value if math.isfinite(value) else str(value)] for step, name, value in self.rows]
        return {"schema": _SCHEMA, "rows": rows}

    @classmethod
    def from_dict(cls, form: Mapping[str, Any]) -> History:
        """The history that `to_dict` told of.

        Raises:
            UsageError: it is no such form.
        """
        made = cls()
        try:
            if form["schema"] != _SCHEMA:
                raise UsageError(f"this history has schema {form['schema']!r}; this loopkit reads {_SCHEMA}")
            for step, name, value in form["rows"]:
                made._rows.append((int(step), str(name), float(_SPELLED.get(value, value))))
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"this is no history, which History.to_dict would have made: {error!r}") from error
        return made

    def to_json(self) -> str:
        """`to_dict` as one line of JSON."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> History:
        """The history that `to_json` wrote.

        Raises:
            UsageError: it is no such text.
        """
        try:
            form = json.loads(text)
        except json.JSONDecodeError as error:
            raise UsageError(f"this is no history, which History.to_json would have written: {error}") from error
        return cls.from_dict(form)

    def to_frame(self) -> Any:
        """A pandas frame with the columns step, name and value, a row for each number.

        `frame.pivot_table(index="step", columns="name", values="value")` has a column for each name.

        Raises:
            UsageError: pandas is not installed.
        """
        try:
            import importlib

            pandas = importlib.import_module("pandas")
        except ImportError as error:
            raise UsageError("History.to_frame needs pandas: pip install pandas, or read History.rows") from error
        return pandas.DataFrame([list(row) for row in self.rows], columns=list(Row._fields))

    def _read(self) -> None:
        """Read the numbers that wait, those of one device and type in one transfer."""
        waiting, self._waiting = self._waiting, []
        groups: dict[tuple[torch.device, torch.dtype], list[tuple[int, torch.Tensor]]] = {}
        for at, value in waiting:
            groups.setdefault((value.device, value.dtype), []).append((at, value))
        for group in groups.values():
            numbers = torch.stack([value.reshape(()) for _, value in group]).tolist()
            for (at, _), number in zip(group, numbers, strict=True):
                self._rows[at] = (*self._rows[at][:2], float(number))


class Keeps:
    """A plugin that writes down every number logged while a `Loop` trains."""

    def __init__(self, history: History) -> None:
        self._history = history

    @hookimpl
    def metric_logged(self, name: str, value: Any, step: int) -> None:
        """Add it."""
        self._history.add(name, value, step)
