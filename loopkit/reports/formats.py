"""The formats a report can be written in: what the entry-point group `loopkit.formats` names."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from loopkit.errors import PluginError, UsageError, did_you_mean
from loopkit.plugin.offers import FORMATS, is_ours, origin, told
from loopkit.plugin.ours import claim
from loopkit.reports.report import Report


def entries() -> list[importlib.metadata.EntryPoint]:
    """The entry points of formats; of two that bear one name ours, or that of the first distribution."""
    claim()
    found: dict[str, importlib.metadata.EntryPoint] = {}
    every = importlib.metadata.entry_points(group=FORMATS)
    for entry in sorted(every, key=lambda entry: (not is_ours(entry), origin(entry))):
        found.setdefault(entry.name, entry)
    return [found[name] for name in sorted(found)]


def fetch(name: str) -> Any:
    """The class of a format, to be called with the path to write, or None.

    Raises:
        UsageError: there is none of that name.
        PluginError: it cannot be imported.
    """
    known = {entry.name: entry for entry in entries()}
    if name not in known:
        raise UsageError(f"unknown format {name!r}{did_you_mean(name, known)} known: {', '.join(sorted(known))}")
    try:
        return known[name].load()
    except Exception as error:
        raise PluginError(f"the format {name!r} cannot be loaded: {told(error)}") from error


def text(report: Report, name: str) -> str:
    """A report in a format.

    Raises:
        UsageError: there is none of that name, or it can only be written while a run goes on.
        PluginError: it fails.
    """
    try:
        made = fetch(name)(None)
        say = getattr(made, "text", None)
        said = say(report) if callable(say) else None
    except (UsageError, PluginError):
        raise
    except Exception as error:
        raise PluginError(f"the format {name!r} failed: {told(error)}") from error
    if not isinstance(said, str):
        raise UsageError(f"the format {name!r} has no method `text(report)`: it is written while a run goes on")
    return said
