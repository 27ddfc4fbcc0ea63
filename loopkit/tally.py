"""An evaluation's numbers: means over samples or targets, and metrics that keep a state of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from loopkit.errors import UsageError
from loopkit.targets import samples


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode and without gradients; the mode of each module is as before afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
        for module, mode in modes:
            module.training = mode


class Mean:
    """A weighted mean of numbers, kept on their device until it is asked for."""

    def __init__(self) -> None:
        self._sum: Any = 0.0
        self._weight: Any = 0.0

    def add(self, value: Any, weight: Any) -> None:
        """Add the mean of a batch; one that weighs nothing, which may be no number, adds nothing."""
        value = value.detach().double() if _can_be_double(value) else value
        part = value * weight
        if isinstance(weight, torch.Tensor):
            part = torch.where(weight > 0, part, torch.zeros_like(part))
        self._sum, self._weight = self._sum + part, self._weight + weight

    def value(self) -> float:
        """The mean; not a number where nothing was added."""
        weight = float(self._weight)
        return float(self._sum) / weight if weight else float("nan")


class Metrics:
    """The metrics of one evaluation.

    Args:
        metrics: by name: a function of (output, target), whose numbers are averaged over samples, or an object with
            `update`, `compute` and `reset`, as torchmetrics has them.

    """

    def __init__(self, metrics: Mapping[str, Any]) -> None:
        self._objects = {name: each for name, each in metrics.items() if is_object(each)}
        self._functions = {name: each for name, each in metrics.items() if name not in self._objects}
        self._means = {name: Mean() for name in self._functions}
        for metric in self._objects.values():
            metric.reset()

    def add(self, output: Any, target: Any, batch: Any) -> None:
        """Take in what a model made of a batch."""
        for metric in self._objects.values():
            metric.update(output, target)
        for name, function in self._functions.items():
            self._means[name].add(function(output, target), samples(batch))

    def values(self) -> dict[str, float]:
        """Each metric's number; of an object that computes several, each under the name it gives it."""
        found: dict[str, float] = {name: mean.value() for name, mean in self._means.items()}
        for name, metric in self._objects.items():
            computed = metric.compute()
            if isinstance(computed, Mapping):
                found |= {str(key): float(value) for key, value in computed.items()}
            else:
                found[name] = float(computed)
        return found


def is_object(metric: Any) -> bool:
    """Whether a metric keeps its own state."""
    return all(callable(getattr(metric, name, None)) for name in ("update", "compute", "reset"))


def check(metrics: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The metrics as they were given; those of torchmetrics are moved to the device.

    Raises:
        UsageError: they are no mapping of names, or one is no metric.
    """
    if not isinstance(metrics, Mapping):
        raise UsageError('metrics= takes a dict of names, such as {"accuracy": accuracy}')
    for name, metric in metrics.items():
        if not callable(metric) and not is_object(metric):
            raise UsageError(
                f"the metric {name!r}, a {type(metric).__name__}, is neither a function of (output, target) nor an "
                "object with update, compute and reset"
            )
        if is_object(metric) and isinstance(metric, nn.Module):
            metric.to(device)
    return dict(metrics)


def _can_be_double(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.device.type != "mps"
