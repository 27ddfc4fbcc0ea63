"""What a schedule was made for and what became of it, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loopkit.callsite import Site

_LOSSES = (1, 2, 3)  # backwards of one batch
_CHANGING = ("last_epoch", "_step_count", "_last_lr", "best", "num_bad_epochs", "cooldown_counter", "T_cur")
Settings = tuple[tuple[str, object], ...]
"""What a scheduler was made with: plain values by name, but for those that change as it advances."""


@dataclass(frozen=True, slots=True)
class Epochs:
    """Epochs of one loader.

    Args:
        times: how often an iterator over it was made.
        length: batches an epoch.
        samples: in its dataset; 0 where that is not known.
    """

    times: int
    length: int
    samples: int


@dataclass(frozen=True, slots=True)
class Shape:
    """What a scheduler's own attributes say of its schedule. Lengths are in advances; None where it says nothing.

    Args:
        horizon: the advance at which it reaches its end (`T_max`, `total_steps`, the last milestone, …).
        warmup: how long the rate rises at first.
        every: distance between two decays of a `StepLR`.
        cycles: it restarts by design and never ends.
        climbs: past its horizon the rate rises again, as a cosine does.
        levels: past its horizon the rate stays where it is, at a value that is meant for training.
        decays: the rate is multiplied again and again by a factor below 1.
        numbers: integers that the user's own function of a `LambdaLR` can see.
        fractions: numbers between 0 and 1 that such a function can see.
        mode: "min" or "max", of a scheduler that follows a metric.
    """

    horizon: int | None = None
    warmup: int | None = None
    every: int | None = None
    cycles: bool = False
    climbs: bool = False
    levels: bool = False
    decays: bool = False
    numbers: tuple[int, ...] = ()
    fractions: tuple[float, ...] = ()
    mode: str = ""


@dataclass(frozen=True, slots=True)
class ScheduleReading:
    """A scheduler's life until now, from its construction or, where that was not heard, its first advance.

    Args:
        serial: which scheduler of the run; never given twice, as `SchedulerReading.number` is.
        driven: `StepReading.number` of the optimizer it drives; -1 where that is not known.
        made: where it was constructed.
        site: where it advanced last.
        shape: of its schedule.
        base_rates, rates: the rate of each group, to begin with and since the last advance; empty where they are
            tensors, which are not read.
        started: its position before the first advance seen: above 0 after a resume.
        advances: how many there were.
        explicit: any of them was given a position or a metric.
        steps: what its optimizer has executed meanwhile, or a GradScaler has skipped.
        steps_then: as `steps`, at its last advance.
        backwards: how many have run meanwhile, of the whole program.
        epochs: of the loaders that were iterated meanwhile.
        first_rates: as `rates`, when it was made.
        metrics: the first values that a plateau scheduler was given.
        settings: what it was made with, as far as these are plain values.
    """

    serial: int
    driven: int
    made: Site | None
    site: Site
    shape: Shape
    base_rates: tuple[float, ...]
    rates: tuple[float, ...]
    started: float | None
    advances: int
    explicit: bool
    steps: int
    steps_then: int
    backwards: int
    epochs: tuple[Epochs, ...]
    first_rates: tuple[float, ...] = ()
    metrics: tuple[float, ...] = ()
    settings: Settings = ()

    def share(self) -> float | None:
        """What is left of the base rate, in the group that has most; None where rates are not known."""
        pairs = [(rate, base) for rate, base in zip(self.rates, self.base_rates, strict=False) if base > 0]
        return max((rate / base for rate, base in pairs), default=None)

    def trained(self) -> Epochs:
        """The epochs of the training data: those of the loader whose batches, all of them, account for every
        backward. All 0 where none does, as after an epoch that was broken off.
        """
        for each in sorted(self.epochs, key=lambda epochs: -epochs.times * epochs.length):
            if self.backwards in {each.times * each.length * losses for losses in _LOSSES}:
                return each
        return Epochs(0, 0, 0)


def settings_of(state: Mapping[str, Any]) -> Settings:
    """The settings in a scheduler's attributes, or in its `state_dict()`, which holds the same."""
    plain = {
        name: tuple(value) if isinstance(value, list | tuple) else value
        for name, value in state.items()
        if name not in _CHANGING
        and (name[:1] != "_" or name == "_milestones")
        and all(map(_is_plain, value if isinstance(value, list | tuple) else [value]))
    }
    return tuple(sorted(plain.items()))


def _is_plain(value: object) -> bool:
    return isinstance(value, int | float | str)
