"""Stop when the validation loss has not improved for three evaluations, and go back to the best weights.

A network that is too large for 300 of scikit-learn's handwritten digits learns them by heart: the training loss goes
to 0 while the validation loss turns and rises. `EarlyStopping` ends the run there, long before its 200 epochs are
over, and says why; the weights are those of the best evaluation. Run

    loopkit run examples/early_stopping.py
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import loopkit
from loopkit_plugins.control import EarlyStopping

EPOCHS = 200


def main() -> None:
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32) / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(images))
    few, held_out = order[:300], order[300:800]
    train = DataLoader(TensorDataset(images[few], labels[few]), batch_size=32, shuffle=True)
    validation = DataLoader(TensorDataset(images[held_out], labels[held_out]), batch_size=500)

    model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    loop = loopkit.Loop(
        model,
        torch.optim.AdamW(model.parameters(), lr=3e-3),
        train,
        loss=nn.CrossEntropyLoss(),
        eval_loader=validation,
        plugins=[EarlyStopping("val/loss", patience=3, restore_best=True)],
    )
    loop.run(epochs=EPOCHS)
    print(f"stopped after {loop.epochs} of {EPOCHS} epochs: {loop.stopped}")
    print(f"validation loss of the best weights {loop.evaluate()['val/loss']:.3f}")


if __name__ == "__main__":
    main()
