"""Two ranks on one CPU: what a test does in both of them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel

Work = Callable[[int], Any]


def on_ranks(work: Work, ranks: int = 2) -> None:
    """Call `work` with its rank in forked processes of one process group."""
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        start_processes(_rank, args=(work, ranks, str(Path(folder) / "store")), nprocs=ranks, start_method="fork")


def _rank(rank: int, work: Work, ranks: int, store: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    torch.manual_seed(100 + rank)
    work(rank)
    dist.barrier()
    dist.destroy_process_group()


class Net(nn.Module):
    """A backbone, a head, and a method that makes the loss."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.backbone = nn.Linear(4, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.tanh(self.backbone(x)))
        return out

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.mse_loss(self.head(torch.tanh(self.backbone(x))), y)


def wrapped() -> tuple[Net, DistributedDataParallel, torch.optim.Optimizer]:
    """A model, its wrapper, and an optimizer."""
    net = Net()
    return net, DistributedDataParallel(net), torch.optim.SGD(net.parameters(), lr=0.1)


def data(rank: int, count: int = 6) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches that differ between ranks."""
    generator = torch.Generator().manual_seed(1000 + rank)
    for _ in range(count):
        x = torch.randn(8, 4, generator=generator)
        yield x, x[:, :2].clone()
