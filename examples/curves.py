"""Four real trainings on scikit-learn's digits, and what their learning curves say: overfitting, underfitting,
erratic, healthy.

Each trains a small network for less than a second and hands its losses, of training and of validation, to
`loopkit.read_curves`:

    overfitting   a wide network learns 150 images, a third of them with random labels, by heart
    underfitting  a weight decay that keeps the weights near zero
    erratic       a learning rate that is far too high for batches of two images
    healthy       the same network with batches and a rate that fit

Run

    python examples/curves.py

and it prints for each its curves and a verdict with numbers, the step at which it began, and what to try. The four
verdicts are the four names.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from loopkit import CurveReading, read_curves

CLASSES = 10


@dataclass(frozen=True)
class Setting:
    """What makes one training differ from the next; losses are logged `points` times, every so many updates."""

    name: str
    images: int
    wrong_labels: float
    hidden: int
    optimizer: str
    rate: float
    weight_decay: float
    batch: int
    every: int
    points: int


GALLERY = [
    Setting("overfitting", 150, 0.3, 512, "Adam", rate=5e-3, weight_decay=0.0, batch=15, every=10, points=40),
    Setting("underfitting", 1200, 0.0, 64, "SGD", rate=0.1, weight_decay=0.3, batch=60, every=20, points=20),
    Setting("erratic", 1200, 0.0, 64, "SGD", rate=0.35, weight_decay=0.0, batch=2, every=2, points=60),
    Setting("healthy", 1200, 0.0, 64, "Adam", rate=2e-3, weight_decay=0.0, batch=30, every=40, points=20),
]

Series = list[tuple[float, float]]


def data(setting: Setting) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Images and labels to learn from, and 500 others to validate on."""
    digits = load_digits()
    images, labels = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    order = torch.randperm(len(images))
    train, held_out = order[: setting.images], order[-500:]
    targets = labels[train]
    wrong = torch.rand(len(targets)) < setting.wrong_labels
    targets = torch.where(wrong, torch.randint(CLASSES, targets.shape), targets)
    return (images[train], targets), (images[held_out], labels[held_out])


def batches(images: Tensor, labels: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches, epoch after epoch."""
    while True:
        for chosen in torch.randperm(len(images)).split(size):
            yield images[chosen], labels[chosen]


def train(setting: Setting) -> tuple[Series, Series]:
    """Train, and give the mean training loss since the last point, and the validation loss, by optimizer steps."""
    torch.manual_seed(0)
    (images, labels), held_out = data(setting)
    model = nn.Sequential(nn.Linear(64, setting.hidden), nn.ReLU(), nn.Linear(setting.hidden, CLASSES))
    optimizer = getattr(torch.optim, setting.optimizer)(
        model.parameters(), lr=setting.rate, weight_decay=setting.weight_decay
    )
    criterion = nn.CrossEntropyLoss()
    stream = batches(images, labels, setting.batch)
    training: Series = []
    validation: Series = []
    for point in range(1, setting.points + 1):
        losses = []
        for x, y in itertools.islice(stream, setting.every):
            loss = criterion(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        step = point * setting.every
        training.append((step, sum(losses) / len(losses)))
        with torch.no_grad():
            validation.append((step, criterion(model(held_out[0]), held_out[1]).item()))
    return training, validation


def diagnose(setting: Setting) -> list[CurveReading]:
    """Train, read the curves, and say so. A model that guesses among ten classes has a loss of ln 10."""
    training, validation = train(setting)
    readings = read_curves(training, validation, reference=math.log(CLASSES))
    print(f"{setting.name}: {setting.points * setting.every} updates with batches of {setting.batch}")
    for name, series in (("training", training), ("validation", validation)):
        print(f"  {name:<10}  {' '.join(f'{value:.2f}' for _, value in series[:: setting.points // 10])}")
    for reading in readings:
        since = "" if reading.began is None else f", since step {reading.began:.0f}"
        print(f"  → {reading.kind}{since}: {reading.seen}")
        print(f"    try: {reading.remedy}")
    print()
    return readings


def main() -> None:
    for setting in GALLERY:
        diagnose(setting)


if __name__ == "__main__":
    main()
