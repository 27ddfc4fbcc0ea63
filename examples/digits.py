"""Train a small network on scikit-learn's handwritten digits: a plain loop, written with care.

1,797 real images of 8x8 pixels ship with scikit-learn, so nothing is downloaded. The loop accumulates gradients over
four batches, warms the learning rate up and lets it decay, and validates after each epoch. Run

    loopkit run examples/digits.py

and loopkit shows that it understood the loop, and found nothing.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

ACCUMULATE = 4


def data() -> tuple[DataLoader[tuple[Tensor, ...]], DataLoader[tuple[Tensor, ...]]]:
    """1,440 images to learn from, the other 357 to validate on."""
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32) / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(images))
    train, held_out = order[:1440], order[1440:]
    return (
        DataLoader(TensorDataset(images[train], labels[train]), batch_size=32, shuffle=True),
        DataLoader(TensorDataset(images[held_out], labels[held_out]), batch_size=128),
    )


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, 10))


def warm_up_then_cosine(updates: int, warm_up: int) -> Callable[[int], float]:
    def factor(update: int) -> float:
        if update < warm_up:
            return (update + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * (update - warm_up) / max(1, updates - warm_up)))

    return factor


def train_one_epoch(
    model: nn.Module,
    loader: DataLoader[tuple[Tensor, ...]],
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
) -> float:
    model.train()
    criterion = nn.CrossEntropyLoss()
    total = 0.0
    batches = len(loader)
    for i, (images, labels) in enumerate(loader):
        # The last window of an epoch may be short: it is divided by what it holds.
        window = min(ACCUMULATE, batches - i // ACCUMULATE * ACCUMULATE)
        loss = criterion(model(images), labels)
        (loss / window).backward()
        total += loss.item()
        if (i + 1) % ACCUMULATE == 0 or i + 1 == batches:
            nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    return total / batches


@torch.no_grad()
def accuracy(model: nn.Module, loader: DataLoader[tuple[Tensor, ...]]) -> float:
    model.eval()
    right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in loader)
    return right / len(loader.dataset)  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--lr", type=float, default=5e-3)
    options = parser.parse_args()

    torch.manual_seed(0)
    train, held_out = data()
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr)
    updates = options.epochs * math.ceil(len(train) / ACCUMULATE)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, warm_up_then_cosine(updates, warm_up=updates // 10))
    for epoch in range(options.epochs):
        loss = train_one_epoch(model, train, optimizer, scheduler)
        print(f"epoch {epoch + 1:2d}  loss {loss:.3f}  accuracy {accuracy(model, held_out):.3f}")


if __name__ == "__main__":
    main()
