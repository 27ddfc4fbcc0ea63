"""Look at gradients in TensorBoard: a plain loop over a deep network, and what reaches its first layers.

Twelve layers with a sigmoid between them: the gradient shrinks with each, and the first layers hardly learn. With
`--repaired` the activation is a GELU and the weights are scaled to it, and all layers get their share. Run both

    python examples/inspect_gradients.py --logdir runs/sigmoid
    python examples/inspect_gradients.py --logdir runs/gelu --repaired
    tensorboard --logdir runs

and compare `grad_norm_by_depth/…` and `grads/…` of the two.

    loopkit run examples/inspect_gradients.py

says what comes of it, at the line of the loss: `output-collapse` (every sample of a batch gets the same prediction)
and `loss-not-decreasing` (the loss stays at chance level). Adam moves the first layers all the same, and so
`vanishing-gradient` is silent. Of the repaired network nothing is said.
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import loopkit
from loopkit_plugins.sinks.tensorboard import TensorBoard

DEPTH, WIDTH = 12, 64


def network(repaired: bool) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(DEPTH):
        linear = nn.Linear(WIDTH, WIDTH)
        if repaired:
            nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        layers += [linear, nn.GELU() if repaired else nn.Sigmoid()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 10))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logdir", default="runs")
    parser.add_argument("--repaired", action="store_true", help="GELU, and weights scaled to it")
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()

    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32) / 16
    data = TensorDataset(images, torch.tensor(digits.target))
    train = DataLoader(data, batch_size=64, shuffle=True)
    model = network(options.repaired)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    with loopkit.watch(plugins=[TensorBoard(options.logdir)]):
        for epoch in range(options.epochs):
            total = 0.0
            for features, labels in train:
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(features), labels)
                loss.backward()
                optimizer.step()
                total += loss.item()
            loopkit.log("train/epoch_loss", total / len(train))
            print(f"epoch {epoch + 1}  loss {total / len(train):.3f}")


if __name__ == "__main__":
    main()
