"""Small real loops: a model, data, and the calls in whatever order a test wants."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def loader(samples: int = 16, batch_size: int = 4) -> DataLoader[tuple[Tensor, ...]]:
    features = torch.randn(samples, 4)
    return DataLoader(TensorDataset(features, features[:, :2].clone()), batch_size=batch_size)


def batches(count: int = 4) -> Iterator[tuple[Tensor, Tensor]]:
    for _ in range(count):
        features = torch.randn(4, 4)
        yield features, features[:, :2].clone()


def adamw(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(net.parameters(), lr=0.01)


loss_of: Callable[[Tensor, Tensor], Tensor] = nn.functional.mse_loss


def textbook(steps: int = 4) -> None:
    """Batch, clear, forward, backward, clip, step, schedule."""
    net = model()
    optimizer = adamw(net)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    for x, y in loader(samples=4 * steps):
        optimizer.zero_grad()
        loss = loss_of(net(x), y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
