"""Read what somebody logged: a history as JSON, HF Trainer's `trainer_state.json`, or a TensorBoard folder."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from loopkit.curvefit import Point
from loopkit.curvetags import Runs, Series
from loopkit.errors import UsageError

_READER = "loopkit_plugins.readers.tensorboard:read_folder"
_STATE = "trainer_state.json"


def read_log(path: Path) -> Runs:
    """All series of numbers in a file or folder.

    Raises:
        UsageError: there is none, or it is not what it should be; the message says what is read.
        LoopkitError: a TensorBoard folder, and tensorboard is not installed.
    """
    if path.is_dir():
        return _read_folder(path)
    if not path.exists():
        raise UsageError(f"there is no {str(path)!r}: give a TensorBoard folder or a JSON history")
    if ".tfevents." in path.name:
        raise UsageError(f"{str(path)!r} is one event file: give the folder it lies in")
    return {".": _read_json(path)}


def _read_folder(folder: Path) -> Runs:
    runs: Runs = {}
    if any(folder.rglob("*.tfevents.*")):
        from loopkit.manager import fetch

        runs = fetch(_READER)(folder)
    elif (folder / _STATE).is_file():
        runs = {".": _read_json(folder / _STATE)}
    if not any(points for series in runs.values() for points in series.values()):
        raise UsageError(
            f"no numbers in {str(folder)!r}: it holds neither TensorBoard event files with scalars nor a {_STATE}"
        )
    return runs


def _read_json(path: Path) -> dict[str, Series]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot open {str(path)!r}: {error.strerror}") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise UsageError(f"{str(path)!r} is not JSON: {error}") from None
    try:
        series = from_history(content)
    except (TypeError, ValueError, KeyError):
        series = {}
    if not any(series.values()):
        raise UsageError(
            f'no numbers in {str(path)!r}: it should be {{"rows": [[step, name, value], …]}}, '
            f'{{"train/loss": [[step, value], …], …}}, {{"loss": [value, …], …}} or a {_STATE}'
        )
    return series


def from_history(content: Any) -> dict[str, Series]:
    """The series in a history: `{"rows": [[step, name, value], …]}`, `{name: [[step, value], …]}`, one value an epoch
    as `{name: [value, …]}`, or the `log_history` of HF Trainer. Lists of anything else are left out.

    Raises:
        TypeError, ValueError, KeyError: it is none of these.
    """
    if not isinstance(content, dict):
        raise TypeError(f"a history is an object, not {type(content).__name__}")
    if "log_history" in content:
        return _of_trainer(content["log_history"])
    series: dict[str, Series] = {}
    if "rows" in content:
        for step, name, value in content["rows"]:
            series.setdefault(str(name), []).append((float(step), _number(value)))
        return series
    for name, values in content.items():
        if isinstance(values, list):
            try:
                series[name] = [_point(n, value) for n, value in enumerate(values, start=1)]
            except (TypeError, ValueError):
                continue  # a list of something else
    return series


def _point(number: int, value: Any) -> Point:
    """`[step, value]`, or a bare value, which is that of epoch `number`."""
    step, value = value if isinstance(value, list) else (number, value)
    return float(step), _number(value)


def _of_trainer(rows: Iterable[Mapping[str, Any]]) -> dict[str, Series]:
    """HF Trainer names training values without a side; it has no side for its own counters."""
    series: dict[str, Series] = {}
    for row in rows:
        step = float(row["step"])
        for name, value in row.items():
            if name in ("step", "epoch") or not isinstance(value, int | float):
                continue
            side, _, rest = name.partition("_")
            full = f"eval/{rest}" if side == "eval" else f"train/{name}"
            series.setdefault(full, []).append((step, float(value)))
    return series


def _number(value: Any) -> float:
    """A value as JSON has it; None is what some writers make of NaN."""
    return math.nan if value is None else float(value)
