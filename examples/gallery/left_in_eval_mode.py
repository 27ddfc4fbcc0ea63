"""A helper that validates leaves the model in eval mode.

`validate` calls `model.eval()`, and the one `model.train()` stands before the loop. So only the first epoch trains
with dropout and with the statistics of its own batches; from the second on both are off, without a word. Run

    loopkit run examples/gallery/left_in_eval_mode.py

and loopkit says

    error  train-in-eval-mode  (fact, step 24)

The repair: call `model.train()` at the beginning of each epoch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split


def digits() -> TensorDataset:
    """Noisy pictures of ten patterns."""
    classes = torch.randint(0, 10, (960,))
    return TensorDataset(torch.randn(10, 64)[classes] + torch.randn(960, 64), classes)


@torch.no_grad()
def validate(model: nn.Module, loader: DataLoader[tuple[Tensor, ...]]) -> float:
    model.eval()
    right = [(model(x).argmax(1) == y).float() for x, y in loader]
    return torch.cat(right).mean().item()


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    train, validation = random_split(digits(), [768, 192])
    loader: DataLoader[tuple[Tensor, ...]] = DataLoader(train, batch_size=32, shuffle=True)
    held_out: DataLoader[tuple[Tensor, ...]] = DataLoader(validation, batch_size=64)
    model = nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.train()
    for epoch in range(4):
        for x, y in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}  accuracy {validate(model, held_out):.3f}")


if __name__ == "__main__":
    main()
