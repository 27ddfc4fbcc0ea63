"""Which of several processes this is, as launchers tell it by the environment."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Launch:
    """One process of a job that torchrun started on this machine.

    Args:
        rank: among the processes of all machines.
        local_rank: among those of this machine; 0 reports for all of them.
        local_size: how many there are on this machine.
        job: the same for those processes, and for no others, not even for those of a restart.
    """

    rank: int
    local_rank: int
    local_size: int
    job: str


def launch() -> Launch | None:
    """What torchrun says of this process; None outside it, and where it runs one process a machine."""
    environment = os.environ
    if "TORCHELASTIC_RUN_ID" not in environment:
        return None
    try:
        rank, local_rank, local_size = (int(environment[name]) for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    except (KeyError, ValueError):
        return None
    if local_size < 2:
        return None
    agent = os.getppid()
    names = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_PORT")
    words = [str(agent), _born(agent), *(environment.get(name, "") for name in names)]
    return Launch(rank, local_rank, local_size, "-".join(words))


def leads() -> bool:
    """Whether this process reports: alone, or for the processes torchrun started beside it."""
    launched = launch()
    return launched is None or launched.local_rank == 0


def rank() -> int | None:
    """The rank of this process in its process group, or by its launcher; None when it is alone."""
    distributed = sys.modules.get("torch.distributed")
    try:
        if distributed is not None and distributed.is_available() and distributed.is_initialized():
            return int(distributed.get_rank()) if distributed.get_world_size() > 1 else _told()
    except (AttributeError, RuntimeError, ValueError):
        pass  # a process group that is half made, or of another kind
    return _told()


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not yet waited for does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return _status(pid)[:1] not in (["Z"], ["X"])


def _told() -> int | None:
    told = os.environ.get("RANK", "")
    return int(told) if told.isdecimal() else None


def _born(pid: int) -> str:
    """When a process began: its number comes again, the pair does not."""
    status = _status(pid)
    return status[19] if len(status) > 19 else ""


def _status(pid: int) -> list[str]:
    """The fields that Linux tells of a process, from its state on; nothing elsewhere."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []
