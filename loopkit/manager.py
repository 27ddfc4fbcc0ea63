"""Finds plugins, loads them one by one, guards each of their hooks, and switches one off when it fails.

Finding reads metadata only; loading imports. A plugin that cannot be loaded, or that raises later, is named once
in `failures`, and the others go on: pluggy alone would drop what they had already answered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import MappingProxyType
from typing import Any

import pluggy

from loopkit import hookspecs
from loopkit.config import Thresholds, tune
from loopkit.errors import PluginError, StopTraining
from loopkit.finding import Confidence, Finding
from loopkit.plugin import fit
from loopkit.plugin.guard import Guard
from loopkit.plugin.offers import FORMATS as FORMATS
from loopkit.plugin.offers import GROUP as GROUP
from loopkit.plugin.offers import Failure as Failure
from loopkit.plugin.offers import Installed as Installed
from loopkit.plugin.offers import fetch as fetch
from loopkit.plugin.offers import installed as installed
from loopkit.plugin.offers import name_of, told
from loopkit.plugin.trace import Trace


class Manager:
    """The plugins of one run.

    Attributes:
        checks_only: leave plugins without a `rule` (sinks, controls) out when loading: another process has them;
            but not those with `every_rank`, which would end the loop of one process alone.
        probes: load installed checks that run extra forwards or backwards, which are otherwise left out.
        thresholds: numbers of checks that were set otherwise, by rule; for those that come from now on.
        trace: prints each call of a hook; None for silence.
    """

    def __init__(
        self,
        *,
        checks_only: bool = False,
        probes: bool = False,
        thresholds: Thresholds = MappingProxyType({}),
        trace: bool = False,
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
        self.trace = Trace() if trace else None
        if self.trace is not None:
            self._pluggy.add_hookcall_monitoring(self.trace.before, self.trace.after)

    def when_one_fails(self, tell: Callable[[Failure], None]) -> None:
        """Call `tell` for each plugin that fails from now on."""
        self._on_failure = tell

    def spent(self) -> list[tuple[str, int]]:
        """How many nanoseconds each plugin took, in the hooks that are timed."""
        guards = (guard for _, guard in self._pluggy.list_name_plugin() if isinstance(guard, Guard))
        return [(guard.name, guard.spent_ns) for guard in guards]

    def hears(self, hook: str) -> bool:
        """Whether any plugin implements this hook."""
        return bool(getattr(self.hook, hook).get_hookimpls())

    def plugins(self) -> list[tuple[str, object]]:
        """Name and object of each registered plugin."""
        return [(name, guard.plugin) for name, guard in self._pluggy.list_name_plugin() if isinstance(guard, Guard)]

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
        name = name or name_of(target)
        try:
            plugin = fetch(target)
        except Exception as error:  # noqa: BLE001
            self._fail(Failure(name, "import", told(error)))
            return False
        if isinstance(plugin, (tuple, list)):
            loaded = [self.load(member) for member in plugin]
            return all(loaded)
        if self.checks_only and not _is_check(plugin) and not getattr(plugin, "every_rank", False):
            return True  # another process has it
        if installed and not self.probes and getattr(plugin, "confidence", None) is Confidence.PROBE:
            return True
        if any(type(other) is plugin for _, other in self.plugins()):
            return True  # installed, and named once more: two of it would count everything twice
        if installed and (other := self._with_rule(plugin)) is not None:
            rule = f"it reports {plugin.rule!r}, which is a rule of {other}: rename one"
            self._fail(Failure(name, "registration", rule))
            return False
        return self.add(plugin, name)

    def _with_rule(self, plugin: Any) -> str | None:
        """The plugin of another class that reports the same rule: nobody could tell their findings apart."""
        cls = plugin if isinstance(plugin, type) else type(plugin)
        for name, other in self.plugins():
            if _is_check(plugin) and getattr(other, "rule", None) == plugin.rule and type(other) is not cls:
                return f"{name} ({type(other).__module__}:{type(other).__name__})"
        return None

    def add(self, plugin: Any, name: str | None = None) -> bool:
        """Add a plugin: a class, made afresh for this run, or an object. Whether that worked.

        Raises:
            UsageError: a threshold is set that it does not have.
        """
        name = name or _name_of(plugin)
        try:
            fit.check_version(plugin)
        except PluginError as error:
            self._fail(Failure(name, "registration", told(error)))
            return False
        if isinstance(plugin, type):
            try:
                plugin = plugin()
            except Exception as error:  # noqa: BLE001
                self._fail(Failure(name, "construction", told(error)))
                return False
            tune(plugin, self.thresholds)
        if self._guard_of(plugin) is not None:
            return True
        try:
            guard = Guard(plugin, self)
            guard.name = self._free(name)
            self._pluggy.register(guard, guard.name)
        except Exception as error:  # noqa: BLE001
            self._fail(Failure(name, "registration", told(error)))
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
            if isinstance(plugin, Guard) and _is_check(plugin.plugin) is checks:
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

    def _guard_of(self, plugin: object) -> Guard | None:
        guards = (guard for _, guard in self._pluggy.list_name_plugin() if isinstance(guard, Guard))
        return next((guard for guard in guards if guard.plugin is plugin), None)

    def switch_off(self, guard: Guard, when: str, error: Exception) -> None:
        """Drop a plugin that raised, and say so once."""
        name = self._pluggy.get_name(guard)
        if name is not None:
            self._pluggy.unregister(guard)
            self._fail(Failure(name, when, told(error)))

    def _fail(self, failure: Failure) -> None:
        self.failures.append(failure)
        if self._on_failure is not None:
            self._on_failure(failure)


def _is_check(plugin: object) -> bool:
    return isinstance(getattr(plugin, "rule", None), str)


def _name_of(plugin: object) -> str:
    cls = plugin if isinstance(plugin, type) else type(plugin)
    rule = getattr(plugin, "rule", None)
    return rule if isinstance(rule, str) else re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", cls.__name__).lower()
