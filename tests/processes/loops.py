"""What children do in these tests: functions that a spawned process finds by name."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import torch
from torch.utils.data import Dataset

import loopkit
from tests.loops import adamw, batches, loss_of, model, textbook


def never_clears(*_: object, steps: int = 4) -> None:
    torch.set_num_threads(1)
    net = model()
    optimizer = adamw(net)
    for x, y in batches(steps):
        loss_of(net(x), y).backward()
        optimizer.step()


def trains_well(*_: object) -> None:
    textbook(4)


def silenced(*_: object) -> None:
    net = model()
    optimizer = adamw(net)
    for x, y in batches(4):
        loss_of(net(x), y).backward()  # loopkit: ignore[missing-zero-grad] a sum is meant
        optimizer.step()


def is_killed(*_: object) -> None:
    never_clears()
    os.kill(os.getpid(), signal.SIGKILL)


def leaves_at_once(*_: object) -> None:
    never_clears()
    os._exit(5)


def raises(*_: object) -> None:
    never_clears()
    raise RuntimeError("a child's own error")


def opens_a_watch(*_: object) -> None:
    with loopkit.watch(skip=["console"]):
        never_clears()


def has_a_child(*_: object) -> None:
    pid = os.fork()
    if pid == 0:
        never_clears()
        os._exit(0)
    os.waitpid(pid, 0)


def trains_when_told(connection: Any) -> None:
    """Trains once; and again when the run of its parent is over, to say what is left of the watch."""
    never_clears()
    connection.send(loopkit.current_run() is not None)
    connection.recv()
    never_clears(steps=8)
    connection.send((loopkit.current_run() is None, torch.autograd.backward.__module__))


def trains_the_shared(net: torch.nn.Module) -> None:
    torch.set_num_threads(1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for x, y in batches(3):
        loss_of(net(x), y).backward()
        optimizer.step()


class TellsWhatWatchesIt(Dataset[torch.Tensor]):
    """Each item says whether the process that made it is watched, or waits to be."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        from loopkit import asleep

        torch.nn.Linear(2, 2)(torch.ones(2))
        return torch.tensor([loopkit.current_run() is not None, asleep.sleeping is not None])


def wait_for(pid: int) -> None:
    """Until a process has ended, as far as it can be seen from a stranger's."""
    from loopkit.ranks import alive

    while alive(pid):
        time.sleep(0.01)
