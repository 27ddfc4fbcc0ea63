"""Layers that do something else in training than in evaluation."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd


def is_norm(module: nn.Module) -> bool:
    """A batch normalisation that keeps running statistics and moves them."""
    return isinstance(module, _BatchNorm) and module.running_mean is not None and module.momentum != 0


def batches_seen(norm: nn.Module) -> int:
    """A number that grows with each batch that a normalisation takes in: no device is asked."""
    count = getattr(norm, "num_batches_tracked", None)  # the kernel that moves the mean may leave its version alone
    return count._version if isinstance(count, torch.Tensor) and not count.is_inference() else 0


def is_modal(module: nn.Module) -> bool:
    """Whether torch's own layer depends on its mode; of a user's own class nothing is said."""
    if isinstance(module, _DropoutNd):
        return float(module.p) > 0
    if isinstance(module, nn.RNNBase):
        return module.dropout > 0 and module.num_layers > 1
    if isinstance(module, nn.MultiheadAttention):
        return float(module.dropout) > 0
    return is_norm(module) or (isinstance(module, nn.RReLU) and module.lower != module.upper)


def rate(module: nn.Module) -> float:
    """The probability of a dropout; 0 of anything else."""
    return float(module.p) if isinstance(module, _DropoutNd) else 0.0


def modal(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers inside `root` that depend on their mode, with their names."""
    for name, module in root.named_modules(prefix=type(root).__name__):
        if is_modal(module):
            yield name, module


def trainable(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Of those, the ones that belong to what is trained: a norm's own parameters, those around a dropout."""
    parents = {id(child): parent for parent in root.modules() for child in parent.children()}
    for name, module in modal(root):
        around = module if any(True for _ in module.parameters()) else parents.get(id(module), module)
        if any(each.requires_grad for each in around.parameters()):
            yield name, module
