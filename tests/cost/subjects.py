"""The loops whose cost is measured: ordinary ones, from the smallest anybody trains to one of 2,000 tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

Loop = Callable[[int], None]
"""Runs that many micro-batches."""


def _loop(model: nn.Module, loss: Callable[[Any], Tensor], batches: Iterator[Any], accumulate: int = 1) -> Loop:
    """The loop everybody writes: AdamW, a schedule, clear after the step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)

    def run(count: int) -> None:
        for i in range(count):
            value = loss(next(batches))
            (value / accumulate).backward()
            if (i + 1) % accumulate == 0:
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()

    return run


def _endless(loader: DataLoader[Any]) -> Iterator[Any]:
    while True:
        yield from loader


def _loader(features: Tensor, labels: Tensor, size: int = 32) -> Iterator[Any]:
    return _endless(DataLoader(TensorDataset(features, labels), batch_size=size, shuffle=True))


def _again(batch: Any) -> Iterator[Any]:
    while True:
        yield batch


def mlp() -> Loop:
    """A 32-64-10 perceptron on batches of 32 from a DataLoader."""
    net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10))
    criterion = nn.CrossEntropyLoss()
    features = torch.randn(32000, 32)
    batches = _loader(features, features[:, :10].argmax(1))  # something to learn: random labels are a finding
    return _loop(net, lambda batch: criterion(net(batch[0]), batch[1]), batches)


def cnn() -> Loop:
    """Two convolutions on scikit-learn's digits."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    net = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(1024, 10)),
    )
    criterion = nn.CrossEntropyLoss()
    batches = _loader(images, torch.tensor(digits.target), 128)
    return _loop(net, lambda batch: criterion(net(batch[0]), batch[1]), batches)


def bert() -> Loop:
    """BERT, 4 layers of 128, on 8 sentences of 64 tokens."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=1000, hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512
    )
    net = BertForSequenceClassification(config)
    batch = {"input_ids": torch.randint(0, 1000, (8, 64)), "labels": torch.randint(0, 2, (8,))}
    return _loop(net, lambda inputs: net(**inputs).loss, _again(batch))


def gpt2() -> Loop:
    """GPT-2 of that size, four micro-batches an update."""
    from transformers import GPT2Config, GPT2LMHeadModel

    net = GPT2LMHeadModel(GPT2Config(vocab_size=1000, n_positions=64, n_embd=128, n_layer=4, n_head=4))
    tokens = torch.randint(0, 1000, (8, 64))
    batch = {"input_ids": tokens, "labels": tokens}
    return _loop(net, lambda inputs: net(**inputs).loss, _again(batch), accumulate=4)


def many() -> Loop:
    """1,000 linear layers of 16: 2,000 parameter tensors."""
    net = nn.Sequential(*(nn.Linear(16, 16) for _ in range(1000)))
    return _loop(net, lambda x: net(x).square().mean(), _again(torch.randn(8, 16)))


class Subject(NamedTuple):
    """A loop and how it is measured.

    Args:
        name: as the table shows it.
        make: builds the loop.
        limit: the highest ratio of watched to bare.
        micro_batches: of one measurement.
        warm_up: micro-batches before one. The updates told to every check are the 1st, 2nd, 4th, 8th …, so they are
            ever rarer: of the tiny loop's steady state the 2,000 after the 2,000th are measured, with one among them,
            of the CNN's, whose epochs are short, the 200 after the 500th, of the transformers' some after the 70th.
        pairs: measurements of each kind.
        plugin: `module:Class` of a sink that is on as well, made with a folder to write to.
    """

    name: str
    make: Callable[[], Loop]
    limit: float
    micro_batches: int
    warm_up: int
    pairs: int
    plugin: str = ""


SUBJECTS = (
    Subject("a  MLP 32-64-10, batch 32", mlp, 1.15, 2000, 2000, 20),
    Subject("b  CNN on digits, batch 128", cnn, 1.02, 200, 500, 20),
    Subject("c  BERT 4x128, 8x64 tokens", bert, 1.02, 20, 70, 20),
    Subject("d  GPT-2 4x128, accumulation 4", gpt2, 1.02, 40, 280, 20),
    Subject("e  2,000 parameter tensors", many, 1.08, 6, 20, 24),
    # From the end of the warm-up on, as many updates as hold every reading in its proportion.
    Subject(
        *("tensorboard  (c) with the TensorBoard sink", bert, 1.03, 500, 20, 6),
        plugin="loopkit_plugins.sinks.tensorboard:TensorBoard",
    ),
)
