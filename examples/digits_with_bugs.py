"""`digits.py` with three mistakes one would really make. It trains, the loss falls, nothing crashes. Run

    loopkit run examples/digits_with_bugs.py

and loopkit names all three with their lines: `scheduler.step()` moved to the top of the epoch, where PyTorch had it
before 1.1; `optimizer.zero_grad()` for every batch, out of habit, which throws three of four batches away; and a step
after the epoch for the last, short window, although 48 batches leave none.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

ACCUMULATE = 4
EPOCHS = 10


def data() -> tuple[DataLoader[tuple[Tensor, ...]], DataLoader[tuple[Tensor, ...]]]:
    """1,440 images to learn from, the other 357 to validate on."""
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32) / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(images))
    train, held_out = order[:1440], order[1440:]
    return (
        DataLoader(TensorDataset(images[train], labels[train]), batch_size=30, shuffle=True),
        DataLoader(TensorDataset(images[held_out], labels[held_out]), batch_size=128),
    )


def train_one_epoch(
    model: nn.Module,
    loader: DataLoader[tuple[Tensor, ...]],
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
) -> float:
    model.train()
    criterion = nn.CrossEntropyLoss()
    total = 0.0
    scheduler.step()
    for i, (images, labels) in enumerate(loader):
        optimizer.zero_grad()
        loss = criterion(model(images), labels)
        (loss / ACCUMULATE).backward()
        total += loss.item()
        if (i + 1) % ACCUMULATE == 0:
            nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
            optimizer.step()
    # whatever is left of the last window
    optimizer.step()
    return total / len(loader)


@torch.no_grad()
def accuracy(model: nn.Module, loader: DataLoader[tuple[Tensor, ...]]) -> float:
    model.eval()
    right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in loader)
    return right / len(loader.dataset)  # type: ignore[arg-type]


def main() -> None:
    torch.manual_seed(0)
    train, held_out = data()
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS)
    for epoch in range(EPOCHS):
        loss = train_one_epoch(model, train, optimizer, scheduler)
        print(f"epoch {epoch + 1:2d}  loss {loss:.3f}  accuracy {accuracy(model, held_out):.3f}")


if __name__ == "__main__":
    main()
