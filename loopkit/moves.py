"""What a step did to a few weights: whether they moved, and how large their gradients were.

Looked at in the updates whose graphs are walked, from the samples that `weights.py` took when the forward ended. The
sums stay on the device until a check asks; then all that wait are read in one transfer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from loopkit.holdings import is_zero
from loopkit.samples import can_be_sampled, sample_of
from loopkit.unseen import unseen

if TYPE_CHECKING:
    from torch import Tensor

    from loopkit.holdings import Owner
    from loopkit.weights import Kept

_MOST = 64
"""Steps remembered."""
_SUBNORMAL = 2.0**-14  # below it float16 has fewer bits the smaller a number is


@dataclass(frozen=True, slots=True)
class Move:
    """What one step did to a sample of one parameter.

    Args:
        parameter: weakly.
        index: its position among the optimizer's parameters.
        dtype: such as "bfloat16".
        dims: of its shape.
        sampled: elements compared.
        fed: of those, how many had a gradient that is not 0.
        moved: of those, how many have other bits now.
        subnormal: of those fed, how many gradients lie below what float16 holds in full.
        grad: root mean square of the whole gradient.
        weight, change: root mean square of the sampled weights, and of what the step changed.
    """

    parameter: Callable[[], Tensor | None]
    index: int
    dtype: str
    dims: int
    sampled: int
    fed: int
    moved: int
    subnormal: int
    grad: float
    weight: float
    change: float


@dataclass(frozen=True, slots=True)
class StepMoves:
    """What one executed step did.

    Args:
        optimizer, number: its label, and which optimizer of the run it is.
        stock: one of torch's own.
        step: how many it has executed, this one included.
        rate: the largest learning rate of its groups.
        full_rate: what a scheduler says that it is a part of; None without one.
        moves: one for each sampled parameter that had a gradient and a rate.
    """

    optimizer: str
    number: int
    stock: bool
    step: int
    rate: float
    full_rate: float | None
    moves: tuple[Move, ...]


class Moves:
    """Looks at steps. An instrument of the run, fed by its recorder."""

    def __init__(self) -> None:
        self._read: list[StepMoves] = []
        self._waiting: list[tuple[StepMoves, list[tuple[Any, ...]], list[Tensor]]] = []

    def stepped(self, owner: Owner, kept: Iterable[Kept]) -> None:
        """A step of `owner` was executed; its gradients are still there.

        Args:
            owner: its columns, before they count this step.
            kept: samples of its weights from before.
        """
        if len(self._read) + len(self._waiting) >= _MOST:
            return
        places = _places(owner)
        about: list[tuple[Any, ...]] = []
        sums: list[Tensor] = []
        with unseen():
            for each in kept:
                parameter = each.parameter()
                grad = parameter.grad if parameter is not None else None
                if parameter is None or grad is None or id(parameter) not in places or not can_be_sampled(parameter):
                    continue
                if not can_be_sampled(grad) or grad.shape != parameter.shape or grad.device != each.sample.device:
                    continue
                now = sample_of(parameter)
                if now.shape == each.sample.shape and now.dtype == each.sample.dtype:
                    about.append(
                        (each.parameter, places[id(parameter)], parameter.dtype, parameter.dim(), now.numel())
                    )
                    sums.append(_sums(each.sample, now, grad))
        if sums:
            rates = _rate(owner, "lr"), _rate(owner, "initial_lr") or None
            made = StepMoves(owner.label, owner.number, owner.stock, owner.steps + 1, *rates, ())
            self._waiting.append((made, about, sums))

    def of_steps(self) -> list[StepMoves]:
        """What was looked at so far, the oldest first; waits for the device if there is something new."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            every = [each for _, _, sums in waiting for each in sums]
            with unseen():
                numbers = iter(_read_rows(every))
            for made, about, sums in waiting:
                moves = tuple(_move(row, next(numbers)) for row, _ in zip(about, sums, strict=True))
                self._read.append(dataclasses.replace(made, moves=moves))
        return self._read


def _places(owner: Owner) -> dict[int, int]:
    """The position of each parameter whose learning rate is not 0, by `id`."""
    groups = getattr(owner.optimizer(), "param_groups", ())
    every = [(each, group) for group in groups for each in group["params"]]
    return {id(each): at for at, (each, group) in enumerate(every) if not is_zero(group.get("lr"))}


def _rate(owner: Owner, name: str) -> float:
    """The largest of its groups' rates; 0 where none is a number at hand."""
    groups = getattr(owner.optimizer(), "param_groups", ())
    rates = [group.get(name) for group in groups]
    return max([float(rate) for rate in rates if isinstance(rate, (int, float))], default=0.0)


def _sums(before: Tensor, now: Tensor, grad: Tensor) -> Tensor:
    """The numbers of one `Move`, on its device."""
    sample = sample_of(grad).float()
    fed = sample != 0
    old, new = before.float(), now.float()
    wide = grad.dtype if grad.dtype is torch.float64 else torch.float32
    numbers = (
        fed.sum(),
        (fed & (before != now)).sum(),
        (fed & (sample.abs() < _SUBNORMAL)).sum(),
        torch.linalg.vector_norm(grad.detach(), dtype=wide).square() / grad.numel(),
        old.square().mean(),
        (new - old).square().mean(),
    )
    return torch.stack([each.float() for each in numbers])


def _read_rows(rows: list[Tensor]) -> list[list[float]]:
    """Many small rows in one transfer from each device."""
    found: list[list[float]] = [[] for _ in rows]
    for device in {row.device for row in rows}:
        here = [n for n, row in enumerate(rows) if row.device == device]
        for n, values in zip(here, torch.stack([rows[n] for n in here]).tolist(), strict=True):
            found[n] = values
    return found


def _move(about: tuple[Any, ...], row: list[float]) -> Move:
    parameter, index, dtype, dims, sampled = about
    fed, moved, subnormal = (int(each) if each == each else 0 for each in row[:3])
    grad, weight, change = (each**0.5 if each >= 0 else float("nan") for each in row[3:6])
    name = str(dtype).removeprefix("torch.")
    return Move(parameter, index, name, dims, sampled, fed, moved, subnormal, grad, weight, change)
