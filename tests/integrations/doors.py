"""What each trainer's door is held to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import loopkit
from loopkit import Finding

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Trained:
    """What came of a training: the weights, and the state of the random generator."""

    weights: Weights
    random: Tensor

    @classmethod
    def of(cls, net: nn.Module) -> Trained:
        return cls({name: value.clone() for name, value in net.state_dict().items()}, torch.get_rng_state())

    def equals(self, other: Trained) -> bool:
        """Bit for bit."""
        same = all(torch.equal(self.weights[name], other.weights[name]) for name in self.weights)
        return self.weights.keys() == other.weights.keys() and same and torch.equal(self.random, other.random)


def quiet(**options: Any) -> dict[str, Any]:
    """What a door is given here: everything but the console."""
    return {"skip": ["console"]} | options


def found(door: loopkit.Door) -> list[Finding]:
    """What the last run found; nothing is watched any more."""
    assert loopkit.current_run() is None, "the watch is still open"
    assert door.run is not None, "no watch was opened"
    assert not door.run.failures
    return door.run.findings


def one(door: loopkit.Door, rule: str, line: int) -> None:
    """One finding, at that line."""
    (finding,) = found(door)
    assert finding.rule == rule
    assert finding.place is not None
    assert finding.place.line == line


def trains_alike(train: Callable[[bool], nn.Module]) -> None:
    """Weights and random state are the same with the door and without."""
    trained = []
    for watched in (False, True):
        torch.manual_seed(0)
        trained.append(Trained.of(train(watched)))
    assert trained[0].equals(trained[1])
