"""`loopkit plugins`: every plugin with its state, and why one cannot be loaded.

Ours are read from their source. A stranger's is imported and made, since only that shows whether it can be.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loopkit import hookspecs
from loopkit.config import nearest
from loopkit.plugin import beside, fit
from loopkit.plugin.offers import (
    AUTOLOAD_OFF,
    Failure,
    Installed,
    autoload_is_off,
    fetch,
    installed,
    is_ours,
    origin,
    told,
)
from loopkit.reports import formats

ON, OFF, PROBE, BROKEN = "on", "off", "--probe", "cannot be loaded"


@dataclass(frozen=True, slots=True)
class Listed:
    """A plugin in the list.

    Args:
        name, family, distribution, version, target: where it comes from.
        hooks: that it implements.
        state: "on", "off", "--probe", or "cannot be loaded".
        why: it is in that state, where that is not plain.
    """

    name: str
    state: str
    distribution: str = ""
    version: str = ""
    family: str = ""
    target: str = ""
    hooks: list[str] = field(default_factory=list)
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {name: getattr(self, name) for name in self.__slots__}


def listed() -> list[Listed]:
    """Those that are installed, those of a file in the working directory, and the formats of a report."""
    left_out = set(nearest(Path.cwd()).no_plugins)
    failures: list[Failure] = []
    found = [_one(offer, left_out) for offer in installed(failures, every=True)]
    found += [Listed(each.plugin, BROKEN, why=each.error) for each in failures]
    return found + _beside() + [_format(entry) for entry in formats.entries()]


def _format(entry: importlib.metadata.EntryPoint) -> Listed:
    """What `--format` may name; a stranger's is imported."""
    distribution, _, version = origin(entry).partition(" ")
    state, why = ON, ""
    if not is_ours(entry):
        try:
            entry.load()
        except Exception as error:  # noqa: BLE001
            state, why = BROKEN, told(error)
    return Listed(entry.name, state, distribution, version, "formats", entry.value, [], why)


def _one(offer: Installed, left_out: set[str]) -> Listed:
    distribution, _, version = offer.distribution.partition(" ")
    state, why, hooks = ON, "", _read_hooks(offer.target) if offer.ours else []
    if not hooks:
        state, why, hooks = _tried(offer.target)
    elif offer.entry == "probes":
        state = PROBE
    if left_out & {offer.name, offer.entry, offer.target}:
        state, why = OFF, "no-plugins in the settings"
    elif autoload_is_off() and not offer.ours:
        state, why = OFF, AUTOLOAD_OFF
    return Listed(offer.name, state, distribution, version, offer.entry, offer.target, hooks, why)


def _beside() -> list[Listed]:
    target = beside.in_folder(Path.cwd())
    if target is None:
        return []
    try:
        members = fetch(target)
    except Exception as error:  # noqa: BLE001
        return [Listed(beside.FILE, BROKEN, target=target, why=told(error))]
    found = []
    for member in members:
        state, why, hooks = _tried(member)
        found.append(Listed(beside.name_of(member), state, beside.FILE, "", "", member, hooks, why))
    return found


def _tried(target: str) -> tuple[str, str, list[str]]:
    """Import a plugin and make one, as a run would."""
    try:
        plugin = fetch(target)
        fit.check_version(plugin)
        made = plugin() if isinstance(plugin, type) else plugin
        hooks = sorted(set(fit.hooks_of(made).values()))
    except Exception as error:  # noqa: BLE001 - any plugin may raise anything
        return BROKEN, told(error), []
    probe = str(getattr(made, "confidence", "")) == "probe"
    return PROBE if probe else ON, "", hooks


def _read_hooks(target: str) -> list[str]:
    """The hooks of a class, as its source has them; none where they come from a class it is derived from."""
    module_name, _, class_name = target.partition(":")
    try:
        spec = importlib.util.find_spec(module_name)
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else "")
    except (ImportError, OSError, SyntaxError, ValueError):
        return []
    marked = [
        method.name
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == class_name
        for method in node.body
        if isinstance(method, ast.FunctionDef) and any("hookimpl" in ast.unparse(by) for by in method.decorator_list)
    ]
    return sorted(name for name in marked if hasattr(hookspecs, name))


def text(rows: list[Listed]) -> str:
    """The list in columns, each that cannot be loaded with its reason below it."""
    head = ("name", "family", "distribution", "state", "hooks")
    cells = [
        (each.name, each.family, f"{each.distribution} {each.version}".strip(), each.state, ", ".join(each.hooks))
        for each in rows
    ]
    wide = [max(len(row[column]) for row in [head, *cells]) for column in range(4)]
    lines = [_line(head, wide)]
    for each, row in zip(rows, cells, strict=True):
        lines.append(_line(row, wide))
        if each.why:
            lines.append(f"    {each.why}")
    return "\n".join(lines)


def _line(row: tuple[str, ...], wide: list[int]) -> str:
    return "  ".join([f"{cell:<{width}}" for cell, width in zip(row, wide, strict=False)] + [row[-1]]).rstrip()
