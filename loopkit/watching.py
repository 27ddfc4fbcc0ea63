"""`watch()`: a run, plus taps, around somebody else's loop."""

from __future__ import annotations

import atexit
import functools
import multiprocessing.util
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from loopkit import asleep, ranks, taps
from loopkit.asleep import Asleep, Ticket
from loopkit.callsite import CallSites
from loopkit.config import Config, Thresholds, tune
from loopkit.errors import PluginError, StopTraining, UsageError
from loopkit.manager import Manager, fetch
from loopkit.parts import Folder
from loopkit.processes import Processes, SpawnTap
from loopkit.rulebook import check_slugs
from loopkit.run import Run
from loopkit.silence import Filter
from loopkit.taps.patch import Handle, Taps

P = ParamSpec("P")
R = TypeVar("R")


class _Open:
    """The open run of this process, the watches that joined it, its taps, and the other processes it has."""

    def __init__(self, run: Run, processes: Processes, skip: Sequence[str] = ()) -> None:
        self.run = run
        self.processes = processes
        self.watches = 0
        self.handle: Handle | None = None
        self._skip = skip
        if processes.writer is not None:
            run.manager.add(processes.writer, "part")

    def listen(self) -> None:
        """Install the taps."""
        run = self.run
        self.handle = Taps(taps.install(run), SpawnTap(run, lambda: self.processes.ticket(run)))

    def close(self) -> None:
        """End the run. Its findings are reported here if no other process does that."""
        run, processes = self.run, self.processes
        try:
            run.finish(processes.gather)
            if run.manager.checks_only and not run.part and (processes.reports or not processes.saved()):
                run.manager.checks_only = False
                run.manager.load_installed(self._skip)
                run.refresh()
                run.tell()
        finally:
            if self.handle is not None:
                self.handle.undo()


_open: _Open | None = None


def current_run() -> Run | None:
    """The run that is being watched in this process, or None."""
    return _open.run if _open is not None else None


# -- children --------------------------------------------------------------------------------------------


def _about_to_fork() -> None:
    if _open is not None:
        _open.processes.ticket(_open.run)  # the folder that its children share is made before the first of them


def _forked() -> None:
    """A forked child inherits the taps: take them out, and wait for the first sign of training.

    What it inherits while it waits it may pass on: a child of its own wakes by itself.
    """
    global _open
    if _open is None:
        return
    opened, _open = _open, None
    opened.run.stop_listening()
    if opened.handle is not None:
        opened.handle.undo()
    ticket = opened.processes.ticket(opened.run)
    if ticket is not None:
        Asleep(ticket, open_child)


os.register_at_fork(before=_about_to_fork, after_in_child=_forked)


def open_child(ticket: Ticket) -> None:
    """Watch this process as a part of the run of another one, until it ends or that run does."""
    global _open
    if not os.path.isdir(ticket.folder):
        return  # the run is over
    run = Run(Manager(checks_only=True), part=True)
    opened = _Open(run, Processes.of_child(Folder(ticket.folder), lambda: _close_child(opened)))
    try:
        for folder in ticket.user_folders:
            run.instrument(CallSites).add_user_folder(folder)
        for check in ticket.checks:
            _add_anew(run, check, ticket.thresholds)
        run.refresh()
        opened.listen()
        _open = opened
        run.start()
    except Exception:  # noqa: BLE001 - a child that cannot be watched trains all the same
        _close_child(opened)
        return
    atexit.register(_end_of_child, opened)  # which children of multiprocessing skip
    multiprocessing.util.Finalize(None, _end_of_child, (opened,), exitpriority=0)


def _add_anew(run: Run, check: Any, thresholds: Thresholds) -> None:
    """Give a child a check of its own: one that holds what the parent saw would judge both as one."""
    try:
        made = (fetch(check) if isinstance(check, str) else check)()
        tune(made, thresholds)
    except Exception as error:  # noqa: BLE001
        rule = getattr(check, "rule", str(check))
        run.could_not_check(rule, f"in child processes: it cannot be made anew there ({error})")
    else:
        run.manager.add(made)


def _end_of_child(opened: _Open) -> None:
    global _open
    if _open is opened:  # not in a child of this child, which inherits what is to be done at exit
        _open = None
        opened.close()


def _close_child(opened: _Open) -> None:
    """The run is over before the child is: from now on nothing of ours is in it."""
    global _open
    if _open is opened:
        _open = None
    if opened.handle is not None:
        opened.handle.undo()


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
        taps_if: asked whether this watch needs to hear torch, which it otherwise does.
        program: the watch is around a whole program: a plugin that asks for its end ends the training loop alone,
            where that can be done.
        wanted: `"module:Name"` strings; one that cannot be loaded is a failure of the run, and none of the watch.
        probe: also run what needs extra forwards and backwards, on copies of the model.
        config: what the project has set for single files, its baseline and its thresholds.
        trace: print each call of a hook to stderr.

    Raises:
        UsageError: a rule is named that no plugin has, or a threshold that its rule does not have.
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
        taps_if: Callable[[Run], bool] | None = None,
        program: bool = False,
        wanted: Sequence[str] = (),
        config: Config | None = None,
        probe: bool = False,
        trace: bool = False,
    ) -> None:
        if isinstance(select, str) or isinstance(ignore, str):
            raise UsageError("select and ignore take a list of rule names, not one string")
        self._select = None if select is None else list(select)
        self._ignore = list(ignore)
        self._plugins = plugins
        self._autoload = autoload
        self._skip = list(skip)
        self._taps_if = taps_if
        self._program = program
        self._wanted = wanted
        self._probe, self._trace = probe, trace
        self._config = config if config is not None else Config()
        self.all_loaded = True
        self._joined: list[tuple[_Open, Filter, list[object]]] = []
        named = self._ignore + (self._select or []) + self._config.rules()
        if named:
            check_slugs(named, frozenset(_rules_of([*plugins, *wanted])))

    def __enter__(self) -> Run:
        global _open
        if asleep.sleeping is not None:
            asleep.sleeping.rouse()  # so that this joins the run of the process that started us
        first = _open is None
        opened = _open if _open is not None else self._opened()
        before = {id(plugin) for _, plugin in opened.run.manager.plugins()}
        filters = Filter.of(self._select, self._ignore, self._config)
        self._add_plugins(opened.run.manager)
        added = [plugin for _, plugin in opened.run.manager.plugins() if id(plugin) not in before]
        opened.run.filters.append(filters)
        before_heard = opened.run.heard
        opened.run.refresh()
        if opened.handle is not None and opened.run.heard != before_heard:
            opened.handle.undo()  # a tap listens only for what somebody hears
            opened.handle = None
            opened.listen()
        if opened.handle is None and (self._taps_if is None or self._taps_if(opened.run)):
            opened.listen()
        _open = opened
        opened.watches += 1
        self._joined.append((opened, filters, added))
        if first:
            try:
                opened.run.start()
            except BaseException:
                self.__exit__(None, None, None)
                raise
        else:
            opened.run.joined(added)
        return opened.run

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        global _open
        opened, filters, added = self._joined.pop()
        opened.watches -= 1
        if opened is _open and opened.watches == 0 and not opened.run.part:
            _open = None
            if isinstance(error, StopTraining | KeyboardInterrupt):
                opened.run.ending = "stopped"
            elif error is not None and not (isinstance(error, SystemExit) and not error.code):
                opened.run.ending = "failed"
            opened.close()
        elif opened is _open:
            opened.run.filters.remove(filters)
            opened.run.left(added)
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

    def _opened(self) -> _Open:
        options: dict[str, Any] = {"probes": self._probe, "thresholds": self._config.thresholds, "trace": self._trace}
        run = Run(Manager(checks_only=not ranks.leads(), **options))
        run.program = run.stops_softly = self._program
        return _Open(run, Processes(), self._skip)

    def _add_plugins(self, manager: Manager) -> None:
        for plugin in self._plugins:
            if not isinstance(plugin, str):
                manager.add(plugin)
            elif not manager.load(plugin) and manager.failures[-1].when == "import":
                raise PluginError(manager.failures[-1].error)
        if self._autoload:
            manager.load_installed(self._skip)
        loaded = [manager.load(target) for target in self._wanted]
        self.all_loaded = all(loaded)


def _rules_of(plugins: Iterable[Any]) -> Iterator[str]:
    """The rules of plugins that were handed over. What cannot be imported has none, and is named when it is added."""
    for plugin in plugins:
        if isinstance(plugin, str):
            try:
                plugin = fetch(plugin)
            except Exception:  # noqa: BLE001
                continue
        if isinstance(plugin, tuple | list):
            yield from _rules_of(plugin)
        elif isinstance(rule := getattr(plugin, "rule", None), str):
            yield rule


def watch(
    *,
    select: Iterable[str] | None = None,
    ignore: Iterable[str] = (),
    plugins: Sequence[Any] = (),
    autoload: bool = True,
    skip: Iterable[str] = (),
    probe: bool = False,
) -> Watch:
    """Watch the training loops inside a `with` block or a decorated function; see `Watch`."""
    return Watch(select=select, ignore=ignore, plugins=plugins, autoload=autoload, skip=skip, probe=probe)
