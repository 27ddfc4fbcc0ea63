"""Two ranks train past their DDP wrapper, and so each trains a model of its own.

The loss is made by a method of the model inside, `model.module.training_loss(x)`. Only the wrapper's own forward
makes the next backward average gradients over the ranks. None are, nothing fails, and both losses fall. Run

    loopkit run examples/gallery/ddp_bypassed.py

and loopkit, at the line of `model.module.training_loss(x)`, says

    error  ddp-forward-bypassed  (proof, step 1, ranks 0, 1)
      seen   AdamW stepped on gradients of Autoencoder that were not averaged over the 2 ranks: the model inside the
             DDP wrapper was called, and the wrapper not
      why    only the wrapper's own forward makes backward average: each rank now trains a model of its own, and the
             one that is saved has seen its own rank's data alone
      try    call the DDP model, not its .module; let forward call the method that makes the loss
"""

from __future__ import annotations

import os
import tempfile

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel

RANKS = 2


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 4))
        self.decoder = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 32))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.decoder(self.encoder(x))
        return out

    def training_loss(self, x: Tensor) -> Tensor:
        return nn.functional.mse_loss(self(x), x)


def train(rank: int, store: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    torch.manual_seed(0)
    model = DistributedDataParallel(Autoencoder())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(rank)  # each rank has its own share of the data
    for _ in range(40):
        x = torch.randn(16, 4, generator=generator) @ torch.ones(4, 32)
        optimizer.zero_grad()
        loss = model.module.training_loss(x)
        loss.backward()
        optimizer.step()
    print(f"rank {rank}  loss {loss.item():.3f}", flush=True)
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with tempfile.TemporaryDirectory() as folder:
        start_processes(train, args=(os.path.join(folder, "store"),), nprocs=RANKS, start_method="fork")


if __name__ == "__main__":
    main()
