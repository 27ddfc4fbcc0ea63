"""Finds plugins, loads them one by one, guards each of their hooks, and switches one off when it fails.

Finding reads metadata only; loading imports. A plugin that cannot be loaded, or that raises later, is named once
in `failures`, and the others go on: pluggy alone would drop what they had already answered.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pluggy

from loopkit import hookspecs
from loopkit.config import Thresholds, tune
from loopkit.errors import LoopkitError, PluginError, StopTraining, did_you_mean
from loopkit.finding import Confidence, Finding

GROUP = hookspecs.PROJECT
"""The entry-point group of plugins, ours and everyone else's."""
FORMATS = f"{GROUP}.formats"
"""The entry-point group of what `--format NAME` may name."""


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


@dataclass(frozen=True, slots=True)
class Failure:
    """A plugin that failed: its name, when, and the error. The run went on without it."""

    plugin: str
    when: str
    error: str


def installed(failures: list[Failure] | None = None) -> list[Installed]:
    """Every plugin that installed packages offer, by name. A family's tuple is read, its members are not."""
    found: dict[str, Installed] = {}
    for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda entry: entry.name):
        origin = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown"
        try:
            targets = _targets(entry)
        except Exception as error:  # noqa: BLE001 - any plugin may raise anything at import
            if failures is not None:
                failures.append(Failure(entry.name, "import", _told(error)))
            continue
        for target in targets:
            name = entry.name if target == entry.value else _name(target)
            found.setdefault(name, Installed(name, target, entry.name, origin))
    return list(found.values())


def _targets(entry: importlib.metadata.EntryPoint) -> tuple[str, ...]:
    """The `module:Class` strings an entry stands for. Loading a family's package imports no check."""
    if not entry.attr.isupper():  # named like a class: imported later, guarded by itself
        return (entry.value,)
    value = entry.load()
    return tuple(value) if isinstance(value, (tuple, list)) else (entry.value,)


def _name(target: str) -> str:
    """A plugin's name: the file its class stands in, as a slug."""
    return target.partition(":")[0].rpartition(".")[2].replace("_", "-")


def fetch(target: str) -> Any:
    """The object `module:Name` names.

    Raises:
        PluginError: no such module, or no such name in it. What importing the module raises passes.
    """
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


class Manager:
    """The plugins of one run.

    Attributes:
        checks_only: leave plugins without a `rule` (sinks, controls) out when loading: another process has them;
            but not those with `every_rank`, which would end the loop of one process alone.
        probes: load installed checks that run extra forwards or backwards, which are otherwise left out.
        thresholds: numbers of checks that were set otherwise, by rule; for those that come from now on.
    """

    def __init__(
        self, *, checks_only: bool = False, probes: bool = False, thresholds: Thresholds = MappingProxyType({})
    ) -> None:
        self.checks_only = checks_only
        self.probes = probes
        self.thresholds = dict(thresholds)
        self._pluggy = pluggy.PluginManager(hookspecs.PROJECT)
        self._pluggy.add_hookspecs(hookspecs)
        self.hook = self._pluggy.hook
        self.failures: list[Failure] = []
        self.stop: StopTraining | None = None
        self._on_failure: Callable[[Failure], None] | None = None

    def when_one_fails(self, tell: Callable[[Failure], None]) -> None:
        """Call `tell` for each plugin that fails from now on."""
        self._on_failure = tell

    def hears(self, hook: str) -> bool:
        """Whether any plugin implements this hook."""
        return bool(getattr(self.hook, hook).get_hookimpls())

    def plugins(self) -> list[tuple[str, object]]:
        """Name and object of each registered plugin."""
        return [(name, guard.plugin) for name, guard in self._pluggy.list_name_plugin() if isinstance(guard, _Guard)]

    def checks(self) -> list[object]:
        """The registered plugins that have a `rule`."""
        return [plugin for _, plugin in self.plugins() if _is_check(plugin)]

    def symptoms(self) -> frozenset[str]:
        """The rules of checks that say `symptom = True`: any error explains what they find."""
        return frozenset(str(check.rule) for check in self.checks() if getattr(check, "symptom", False))  # type: ignore[attr-defined]

    def load_installed(self, skip: Iterable[str] = ()) -> None:
        """Load what is installed, but for the plugins or families named in `skip`."""
        failures: list[Failure] = []
        left_out = set(skip)
        for offer in installed(failures):
            if not left_out & {offer.name, offer.entry, offer.target} and not self._pluggy.has_plugin(offer.name):
                self.load(offer.target, offer.name, installed=True)
        for failure in failures:
            self._fail(failure)

    def load(self, target: str, name: str | None = None, *, installed: bool = False) -> bool:
        """Import `module:Name` and add it; whether that worked. A failure is recorded, not raised."""
        name = name or _name(target)
        try:
            plugin = fetch(target)
        except Exception as error:  # noqa: BLE001
            self._fail(Failure(name, "import", _told(error)))
            return False
        if isinstance(plugin, (tuple, list)):
            loaded = [self.load(member) for member in plugin]
            return all(loaded)
        if self.checks_only and not _is_check(plugin) and not getattr(plugin, "every_rank", False):
            return True  # another process has it
        if installed and not self.probes and getattr(plugin, "confidence", None) is Confidence.PROBE:
            return True
        return self.add(plugin, name)

    def add(self, plugin: Any, name: str | None = None) -> bool:
        """Add a plugin: a class, made afresh for this run, or an object. Whether that worked.

        Raises:
            UsageError: a threshold is set that it does not have.
        """
        name = name or _name_of(plugin)
        if isinstance(plugin, type):
            try:
                plugin = plugin()
            except Exception as error:  # noqa: BLE001
                self._fail(Failure(name, "construction", _told(error)))
                return False
            tune(plugin, self.thresholds)
        if self._guard_of(plugin) is not None:
            return True
        try:
            guard = _Guard(plugin, self)
            self._pluggy.register(guard, self._free(name))
        except Exception as error:  # noqa: BLE001
            self._fail(Failure(name, "registration", _told(error)))
            return False
        return True

    def remove(self, plugin: object) -> None:
        """Take a plugin out again."""
        guard = self._guard_of(plugin)
        if guard is not None:
            self._pluggy.unregister(guard)

    def call(self, hook: str, **arguments: Any) -> list[Finding]:
        """Call a hook; the findings of all plugins.

        Raises:
            StopTraining: a plugin asked for it; the others were called all the same.
        """
        answers: list[Sequence[Finding]] = getattr(self.hook, hook)(**arguments)
        if self.stop is not None:
            stop, self.stop = self.stop, None
            raise stop
        return [finding for answer in answers for finding in answer]

    def call_in_turn(
        self, hook: str, *, checks: bool, only: Sequence[object] | None = None, **arguments: Any
    ) -> Iterator[list[Finding]]:
        """Call a hook of checks alone, or of all others; what one finds is taken before the next is called.

        Args:
            hook: its name.
            checks: whether those with a `rule` are called, or those without.
            only: of these plugins alone; None for all.
            arguments: of the hook.
        """
        every = [
            impl.plugin for impl in reversed(getattr(self.hook, hook).get_hookimpls())
        ]  # pluggy's order of calls
        for plugin in every:
            if isinstance(plugin, _Guard) and _is_check(plugin.plugin) is checks:
                if only is not None and all(plugin.plugin is not each for each in only):
                    continue
                caller = self._pluggy.subset_hook_caller(hook, [each for each in every if each is not plugin])
                yield [finding for answer in caller(**arguments) for finding in answer]
        self.stop = None  # there is nothing left to stop

    def _free(self, name: str) -> str:
        names = {known for known, _ in self._pluggy.list_name_plugin()}
        return next(
            free for n in range(1, len(names) + 2) if (free := name if n == 1 else f"{name}-{n}") not in names
        )

    def _guard_of(self, plugin: object) -> _Guard | None:
        guards = (guard for _, guard in self._pluggy.list_name_plugin() if isinstance(guard, _Guard))
        return next((guard for guard in guards if guard.plugin is plugin), None)

    def switch_off(self, guard: _Guard, when: str, error: Exception) -> None:
        """Drop a plugin that raised, and say so once."""
        name = self._pluggy.get_name(guard)
        if name is not None:
            self._pluggy.unregister(guard)
            self._fail(Failure(name, when, _told(error)))

    def _fail(self, failure: Failure) -> None:
        self.failures.append(failure)
        if self._on_failure is not None:
            self._on_failure(failure)


class _Guard:
    """What is registered in a plugin's stead: its implementations, each with a guard around it.

    Raises:
        PluginError: it implements no hook, one that does not exist, or as a wrapper.
    """

    def __init__(self, plugin: object, manager: Manager) -> None:
        self.plugin = plugin
        self._manager = manager
        specs = [name for name, value in vars(hookspecs).items() if hasattr(value, f"{GROUP}_spec")]
        marked = {name: options for name in dir(plugin) if (options := _options(plugin, name)) is not None}
        if not marked:
            raise PluginError("it has no method marked @loopkit.hookimpl")
        for name, options in marked.items():
            hook = options.get("specname") or name
            if hook not in specs and not options.get("optionalhook"):
                raise PluginError(f"there is no hook {hook!r}{did_you_mean(hook, specs)}")
            if options.get("wrapper") or options.get("hookwrapper"):
                raise PluginError(f"{name} is a hook wrapper; loopkit calls plain implementations only")
            setattr(self, name, self._guarded(hook, getattr(plugin, name)))

    def _guarded(self, hook: str, function: Callable[..., Any]) -> Callable[..., Any]:
        manager = self._manager

        @functools.wraps(function)  # carries pluggy's mark, and the names of the arguments it wants
        def guarded(*arguments: Any) -> Sequence[Finding] | None:
            try:
                answer = function(*arguments)
                return None if answer is None else _findings(answer)
            except StopTraining as request:
                manager.stop = request
            except Exception as error:  # noqa: BLE001 - whatever it is, training goes on
                manager.switch_off(self, hook, error)
            return None

        return guarded


def _options(plugin: object, name: str) -> dict[str, Any] | None:
    """The marks of a method, found without running a property."""
    options = getattr(inspect.getattr_static(plugin, name, None), f"{GROUP}_impl", None)
    return options if isinstance(options, dict) else None


def _findings(answer: Any) -> Sequence[Finding]:
    """What a hook answered, as a sequence; a generator runs here, inside the guard."""
    findings = (answer,) if isinstance(answer, Finding) else tuple(answer)
    for finding in findings:
        if not isinstance(finding, Finding):
            raise PluginError(f"a hook answers with Findings or None, not with {type(finding).__name__}")
    return findings


def _is_check(plugin: object) -> bool:
    return isinstance(getattr(plugin, "rule", None), str)


def _name_of(plugin: object) -> str:
    cls = plugin if isinstance(plugin, type) else type(plugin)
    rule = getattr(plugin, "rule", None)
    return rule if isinstance(rule, str) else re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", cls.__name__).lower()


def _told(error: BaseException) -> str:
    text = str(error).strip() or "no message"
    return text if isinstance(error, LoopkitError) else f"{type(error).__name__}: {text}"
