"""A run of several processes: who reports, how the others are heard, and when they are not waited for.

| process | watches | reports |
|---|---|---|
| the one that opened the watch | at once | for itself and its children |
| its child, forked or spawned | from the first sign of training on | never: it writes its part |
| local rank 0 under torchrun | at once | for all ranks of this machine, and their children |
| another rank | at once | what would be lost: when it fails (torchrun then kills the others) or rank 0 is gone |

There are no collective calls and no locks: parts are files, and whoever reports claims the folder once.
"""

from __future__ import annotations

import functools
import multiprocessing.process
import multiprocessing.spawn
import os
import sys
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from loopkit import ranks
from loopkit.asleep import Ticket
from loopkit.callsite import CallSites
from loopkit.hookspecs import hookimpl
from loopkit.parts import Folder, Part
from loopkit.run import Run
from loopkit.shares import Shares
from loopkit.taps.patch import Cell

PATIENCE = 10.0
"""Seconds for which a program that has ended waits for the processes it would report for."""
_POLL = 0.05
_LEADER = "leader"


class PartWriter:
    """The plugin by which a process that does not report keeps its part of the report up to date.

    Args:
        folder: the run's.
        name: the part's, one of its own for each process.
        process: what to call the process.
        when_gone: called when the folder is found to be gone: the run is over.
        hear: called now and then, to read what others have written.
    """

    def __init__(
        self,
        folder: Folder,
        name: str,
        process: str,
        *,
        when_gone: Callable[[], None] | None = None,
        hear: Callable[[Run], None] | None = None,
    ) -> None:
        self._folder = folder
        self._name = name
        self._process = process
        self._when_gone = when_gone
        self._hear = hear
        self.saved = True

    @hookimpl
    def run_started(self, run: Run) -> None:
        """Be seen."""
        self.write(run)

    @hookimpl(trylast=True)
    def finding_reported(self, run: Run) -> None:
        """Write the finding before the process can be killed."""
        self.write(run)

    @hookimpl(trylast=True)
    def update_finished(self, run: Run) -> None:
        """Bring the counts up to date, ever more rarely."""
        self.write(run)
        if self._hear is not None:
            self._hear(run)

    @hookimpl
    def run_finished(self, run: Run) -> None:
        """Write the whole part."""
        self.write(run, finished=True)

    def write(self, run: Run, *, finished: bool = False) -> None:
        """Write the part as it is now; a full disk or a folder that is gone is no reason to disturb training."""
        part = Part(
            process=self._process,
            pid=os.getpid(),
            rank=ranks.rank(),
            steps=run.steps,
            rows=run.rows(),
            findings=run.findings,
            not_checked=run.not_checked() if finished else run.notes(),
            failures=run.failures,
            finished=finished,
            shares=run.instrument(Shares).mine,
        )
        try:
            self._folder.write(self._name, part)
            self.saved = True
        except OSError as error:
            self.saved = not part.findings
            if isinstance(error, FileNotFoundError) and self._when_gone is not None:
                self._when_gone()


class Processes:
    """The other processes of a run, as the one that opened it sees them.

    Attributes:
        writer: keeps this process's own part; None where nobody else would read it.
        reports: whether this process tells what was found, rather than leave it to another; decided at the end.
    """

    def __init__(self) -> None:
        self.launch = ranks.launch()
        self.writer: PartWriter | None = None
        self.reports = True
        self._folder: Folder | None = None
        self._refused = ""
        if self.launch is not None and self.folder() is not None:
            assert self._folder is not None
            hear = self._hear if ranks.leads() else None
            self.writer = PartWriter(self._folder, self._own_name(), f"rank {self.launch.rank}", hear=hear)

    @classmethod
    def of_child(cls, folder: Folder, when_gone: Callable[[], None]) -> Processes:
        """As a child sees them: it has a part to write, and passes the folder on to its own children."""
        made = cls.__new__(cls)
        made.launch, made.reports, made._folder, made._refused = None, False, folder, ""
        # A number may come again while the run lasts; a part must not be lost to another of its name.
        name = f"{os.getpid()}-{os.urandom(4).hex()}"
        made.writer = PartWriter(folder, name, _name_of_child(), when_gone=when_gone)
        return made

    def folder(self) -> Folder | None:
        """The run's folder, made when the first other process may need it; None where none can be made."""
        if self._folder is None and not self._refused:
            try:
                self._folder = self._made()
            except OSError as error:
                self._refused = f"other processes are not heard: {error}"
        return self._folder

    def _made(self) -> Folder:
        if self.launch is None:
            return Folder(tempfile.mkdtemp(prefix="loopkit-"))
        # All ranks must come upon the same name.
        job = sha256(f"{self.launch.job} {os.getuid()}".encode()).hexdigest()[:16]
        folder = Folder(os.path.join(tempfile.gettempdir(), f"loopkit-{job}"))
        folder.make()
        return folder

    def ticket(self, run: Run) -> Ticket | None:
        """What a child needs to join, or None when there is nothing to check, or nowhere to write."""
        checks = tuple(dict.fromkeys(type(check) for check in run.manager.checks()))
        folder = self.folder() if checks else None
        if folder is None:
            return None
        folders = tuple(run.instrument(CallSites).user_folders)
        return Ticket(folder.path, checks, folders, run.manager.thresholds)

    def gather(self, run: Run) -> None:
        """The loop has ended: let the run take in the parts of the others, if this process is to report them."""
        if self._refused:
            run.could_not_check("*", self._refused)
        self.reports = self._is_ours_to_tell(run)
        if self._folder is None or not self.reports:
            return
        if ranks.leads() and run.ending != "failed":
            self._wait(run)
        taken = self._folder.claim()
        if taken is None:
            run.could_not_check("*", "another rank had ended before: what it and others found is in its report")
            return
        parts = taken.read()
        taken.remove()
        parts.pop(self._own_name(), None)
        _take_in(run, parts)
        _note_open_ends(run, list(parts.values()))

    def _own_name(self) -> str:
        return _LEADER if self.launch is None or self.launch.local_rank == 0 else f"rank-{self.launch.rank}"

    def _is_ours_to_tell(self, run: Run) -> bool:
        if run.part or self._folder is None or ranks.leads() or run.ending == "failed":
            return not run.part
        leader = self._folder.read().get(_LEADER)
        if leader is None:  # where rank 0 opens no watch, nobody else will tell
            return not run.program
        return not leader.finished and not ranks.alive(leader.pid)

    def _hear(self, run: Run) -> None:
        """Tell what other ranks have found while they run: a launcher that ends one by force ends them all."""
        if self._folder is not None:
            parts = self._folder.read()
            parts.pop(self._own_name(), None)
            _take_in(run, parts)

    def saved(self) -> bool:
        """Whether another process can read all that this one has found."""
        return self.writer is not None and self.writer.saved

    def _wait(self, run: Run) -> None:
        """Until the others are finished or dead; not for long: a rank that waits for us would wait for ever."""
        deadline = time.monotonic() + PATIENCE
        try:
            while time.monotonic() < deadline and self._awaited(run):
                time.sleep(_POLL)
        except KeyboardInterrupt:
            pass  # somebody does not want to wait; what is there is reported

    def _awaited(self, run: Run) -> bool:
        """Whether a rank runs or has not begun, or a child of this program that Python itself would wait for."""
        if run.program and any(not child.daemon for child in multiprocessing.process.active_children()):
            return True
        if self.launch is None or self._folder is None:
            return False
        others = [part for name, part in self._folder.read().items() if name.startswith("rank-")]
        if run.program and len(others) < self.launch.local_size - 1:
            return True
        return any(not part.finished and ranks.alive(part.pid) for part in others)


def _take_in(run: Run, parts: dict[str, Part]) -> None:
    run.instrument(Shares).heard(part.shares for part in parts.values())
    run.merge(parts)


def _note_open_ends(run: Run, parts: list[Part]) -> None:
    """Say which processes did not close: their last updates were not judged."""
    for living, words in (
        (True, "had not ended when this was written; what came later is not in it"),
        (False, "ended early (killed, or by os._exit); what came after the last part written is not known"),
    ):
        open_ends = [part.process for part in parts if not part.finished and ranks.alive(part.pid) is living]
        if open_ends:
            run.could_not_check("*", f"{', '.join(sorted(open_ends))} {words}")


def _name_of_child() -> str:
    name = multiprocessing.process.current_process().name
    return f"process {os.getpid()}" if name == "MainProcess" else name  # the latter after a bare os.fork()


# -- spawned children ------------------------------------------------------------------------------------


class SpawnTap:
    """While a watch is open, hands a ticket to each child process that begins anew (spawn, forkserver).

    Args:
        ticket: asked for one at each start of a child.
    """

    def __init__(self, run: Run, ticket: Callable[[], Ticket | None]) -> None:
        original = self._original = multiprocessing.spawn.get_preparation_data
        cell = self._cell = Cell(run)

        @functools.wraps(original)
        def get_preparation_data(name: str) -> dict[str, Any]:
            data: dict[str, Any] = original(name)
            if cell.run is not None and (issued := ticket()) is not None:
                data["loopkit"] = _Handed(issued)
            return data

        self._wrapper = multiprocessing.spawn.get_preparation_data = get_preparation_data

    def undo(self) -> None:
        """Put the original back, unless somebody has patched on top."""
        self._cell.run = None
        if multiprocessing.spawn.get_preparation_data is self._wrapper:
            multiprocessing.spawn.get_preparation_data = self._original


_ARRIVAL = """
import sys
sys.path.append({root!r})
try:
    from loopkit.joining import join
    join({folder!r}, {checks!r}, {user_folders!r}, {thresholds!r})
except Exception:
    pass
finally:
    sys.path.remove({root!r})
"""
"""What arriving does. Pickled as text: a child that cannot import loopkit must start all the same."""


class _Handed:
    """Pickles as a call of `join`."""

    def __init__(self, ticket: Ticket) -> None:
        self._ticket = ticket

    def __reduce__(self) -> tuple[Any, ...]:
        checks = [name for each in self._ticket.checks if (name := _importable(each)) is not None]
        root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        source = _ARRIVAL.format(
            root=root,
            folder=self._ticket.folder,
            checks=checks,
            user_folders=list(self._ticket.user_folders),
            thresholds={rule: dict(given) for rule, given in self._ticket.thresholds.items()},
        )
        return exec, (source, {})


def _importable(check: Any) -> str | None:
    """`module:Class`, or None for a class that another process could not find."""
    if isinstance(check, str):
        return check
    module, name = check.__module__, check.__qualname__
    return f"{module}:{name}" if getattr(sys.modules.get(module), name, None) is check else None
