"""What installed packages offer, read from their metadata; and fetching one of it, which imports."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
from dataclasses import dataclass
from typing import Any

from loopkit import hookspecs
from loopkit.errors import LoopkitError, PluginError, did_you_mean
from loopkit.plugin import beside
from loopkit.plugin.ours import DISTRIBUTION, claim

GROUP = hookspecs.PROJECT
"""The entry-point group of plugins, ours and everyone else's."""
FORMATS = f"{GROUP}.formats"
"""The entry-point group of what `--format NAME` may name."""
AUTOLOAD_OFF = "LOOPKIT_DISABLE_PLUGIN_AUTOLOAD"
"""The environment variable that leaves out what strangers installed."""


@dataclass(frozen=True, slots=True)
class Installed:
    """A plugin that some installed package offers, before it is imported.

    Args:
        name: what `--no-plugin` and messages call it.
        target: `module:Class`.
        entry: the entry point it came from; a family's name switches off the whole family.
        distribution: the package that brought it, and its version.
    """

    name: str
    target: str
    entry: str
    distribution: str

    @property
    def ours(self) -> bool:
        """Whether it ships with loopkit."""
        return self.distribution.partition(" ")[0] == DISTRIBUTION


@dataclass(frozen=True, slots=True)
class Failure:
    """A plugin that failed: its name, when, and the error. The run went on without it."""

    plugin: str
    when: str
    error: str


def autoload_is_off() -> bool:
    """Whether the environment asks to leave out what strangers installed."""
    return os.environ.get(AUTOLOAD_OFF, "") not in ("", "0")


def installed(failures: list[Failure] | None = None, *, every: bool = False) -> list[Installed]:
    """Every plugin that installed packages offer. A family's tuple is read, its members are not.

    Args:
        failures: what cannot be offered is added here: a tuple that cannot be read, a name that is taken.
        every: also those that the environment leaves out.
    """
    claim()
    found: dict[str, Installed] = {}
    failed: list[Failure] = []
    entries = importlib.metadata.entry_points(group=GROUP)
    for entry in sorted(entries, key=lambda entry: (not is_ours(entry), entry.name, origin(entry))):
        if not every and autoload_is_off() and not is_ours(entry):
            continue
        try:
            targets = _targets(entry)
        except Exception as error:  # noqa: BLE001 - any plugin may raise anything at import
            failed.append(Failure(entry.name, "import", told(error)))
            continue
        for target in targets:
            name = entry.name if target == entry.value else name_of(target)
            offer = Installed(name, target, entry.name, origin(entry))
            first = found.setdefault(name, offer)
            if first.target != offer.target:
                taken = f"{name} ({offer.distribution})"
                failed.append(Failure(taken, "registration", _taken(first, offer)))
    if failures is not None:
        failures.extend(failed)
    return list(found.values())


def _taken(first: Installed, second: Installed) -> str:
    return (
        f"two plugins are called {first.name!r}: {first.target} of {first.distribution}, which is used, and "
        f"{second.target} of {second.distribution}, which is not; rename one of the entry points"
    )


def origin(entry: importlib.metadata.EntryPoint) -> str:
    """The distribution that brought an entry point, and its version."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown"


def is_ours(entry: importlib.metadata.EntryPoint) -> bool:
    """Whether an entry point ships with loopkit."""
    return entry.dist is not None and entry.dist.name == DISTRIBUTION


def _targets(entry: importlib.metadata.EntryPoint) -> tuple[str, ...]:
    """The `module:Class` strings an entry stands for. Loading a family's package imports no check."""
    if not entry.attr.isupper():  # named like a class: imported later, guarded by itself
        return (entry.value,)
    value = entry.load()
    return tuple(value) if isinstance(value, (tuple, list)) else (entry.value,)


def name_of(target: str) -> str:
    """A plugin's name: the file its class stands in, as a slug."""
    if beside.is_file(target):
        return beside.name_of(target)
    return target.partition(":")[0].rpartition(".")[2].replace("_", "-")


def fetch(target: str) -> Any:
    """The object `module:Name` names, or `path/to/file.py:Name`; a file alone stands for the plugins in it.

    Raises:
        PluginError: no such module, or no such name in it. What importing the module raises passes.
    """
    claim()
    if beside.is_file(target):
        return beside.fetch(target)
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        raise PluginError(f"cannot load plugin {target!r}: give it as MODULE:NAME, such as my_checks:MyCheck")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and module_name.startswith(error.name):
            raise PluginError(f"cannot load plugin {target!r}: no module named {error.name!r}") from error
        raise
    try:
        return getattr(module, attribute)
    except AttributeError:
        near = did_you_mean(attribute, vars(module))
        raise PluginError(f"cannot load plugin {target!r}: {module_name} has no {attribute!r}{near}") from None


def told(error: BaseException) -> str:
    """An error in one line."""
    text = str(error).strip() or "no message"
    return text if isinstance(error, LoopkitError) else f"{type(error).__name__}: {text}"
