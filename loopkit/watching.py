"""`watch()`: a run, plus taps, around somebody else's loop."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from loopkit import taps
from loopkit.errors import PluginError, StopTraining, UsageError
from loopkit.manager import Manager
from loopkit.rulebook import check_slugs
from loopkit.run import Run
from loopkit.silence import Filter
from loopkit.taps.patch import Handle

P = ParamSpec("P")
R = TypeVar("R")


class _Open:
    """The open run of this process, the watches that joined it, and its taps."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.watches = 0
        self.handle: Handle | None = None


_open: _Open | None = None


def current_run() -> Run | None:
    """The run that is being watched in this process, or None."""
    return _open.run if _open is not None else None


def _forked() -> None:
    """A forked child inherits the taps: let them pass everything through, so that it disturbs nobody."""
    global _open
    if _open is not None:
        _open.run.stop_listening()
        if _open.handle is not None:
            _open.handle.undo()
        _open = None


os.register_at_fork(after_in_child=_forked)


class Watch:
    """A context manager and decorator that watches the training loops inside it.

    Use it as `with loopkit.watch() as run:` and read `run.findings`, or as `@loopkit.watch()` on a function. A
    watch inside a watch joins the run that is open and adds its plugins and its selection to it until it closes.

    Args:
        select: report only these rules; None for all.
        ignore: do not report these rules.
        plugins: classes, objects or `"module:Name"` strings, added to what is installed.
        autoload: False leaves out what is installed, what ships with loopkit too.
        skip: names of installed plugins or families to leave out.

    Raises:
        UsageError: a rule is named that no plugin has.
        PluginError: a `"module:Name"` names nothing.
    """

    def __init__(
        self,
        *,
        select: Iterable[str] | None = None,
        ignore: Iterable[str] = (),
        plugins: Sequence[Any] = (),
        autoload: bool = True,
        skip: Iterable[str] = (),
    ) -> None:
        if isinstance(select, str) or isinstance(ignore, str):
            raise UsageError("select and ignore take a list of rule names, not one string")
        self._select = None if select is None else list(select)
        self._ignore = list(ignore)
        self._plugins = plugins
        self._autoload = autoload
        self._skip = list(skip)
        self._joined: list[tuple[_Open, Filter, list[object]]] = []
        own = frozenset(rule for each in plugins if isinstance(rule := getattr(each, "rule", None), str))
        if self._ignore or self._select:
            check_slugs(self._ignore + (self._select or []), own)

    def __enter__(self) -> Run:
        global _open
        first = _open is None
        opened = _open if _open is not None else _Open(Run(Manager()))
        before = {id(plugin) for _, plugin in opened.run.manager.plugins()}
        filters = Filter.of(self._select, self._ignore)
        self._add_plugins(opened.run.manager)
        added = [plugin for _, plugin in opened.run.manager.plugins() if id(plugin) not in before]
        opened.run.filters.append(filters)
        before_heard = opened.run.heard
        opened.run.refresh()
        if opened.handle is not None and opened.run.heard != before_heard:
            opened.handle.undo()  # a tap listens only for what somebody hears
            opened.handle = None
        if opened.handle is None:
            opened.handle = taps.install(opened.run)
            _open = opened
        opened.watches += 1
        self._joined.append((opened, filters, added))
        if first:
            try:
                opened.run.start()
            except BaseException:
                self.__exit__(None, None, None)
                raise
        return opened.run

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        global _open
        opened, filters, added = self._joined.pop()
        opened.watches -= 1
        if kind is not None:
            opened.run.cut_short = True
        if opened is _open and opened.watches == 0:
            _open = None
            try:
                opened.run.finish()
            finally:
                if opened.handle is not None:
                    opened.handle.undo()
        elif opened is _open:
            opened.run.filters.remove(filters)
            for plugin in added:
                opened.run.manager.remove(plugin)
            opened.run.refresh()
        return isinstance(error, StopTraining)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R | None]:
        """Watch every call of a function. It returns None when a plugin stopped it."""

        @functools.wraps(function)
        def watched(*args: P.args, **kwargs: P.kwargs) -> R | None:
            with self:
                return function(*args, **kwargs)
            return None

        return watched

    def _add_plugins(self, manager: Manager) -> None:
        for plugin in self._plugins:
            if not isinstance(plugin, str):
                manager.add(plugin)
            elif not manager.load(plugin) and manager.failures[-1].when == "import":
                raise PluginError(manager.failures[-1].error)
        if self._autoload:
            manager.load_installed(self._skip)


def watch(
    *,
    select: Iterable[str] | None = None,
    ignore: Iterable[str] = (),
    plugins: Sequence[Any] = (),
    autoload: bool = True,
    skip: Iterable[str] = (),
) -> Watch:
    """Watch the training loops inside a `with` block or a decorated function; see `Watch`."""
    return Watch(select=select, ignore=ignore, plugins=plugins, autoload=autoload, skip=skip)
