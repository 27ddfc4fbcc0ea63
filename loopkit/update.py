"""The record of one update: what happened between two executed optimizer steps, as plain data.

Nothing here needs torch: a check of order is a pure function of such a record and can be replayed.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loopkit.callsite import Site


class Kind(enum.StrEnum):
    """What an event is; the value is the word users read in the row of events."""

    EPOCH = "epoch"
    BATCH = "batch"
    FORWARD = "forward"
    EVALUATION = "evaluation"
    BACKWARD = "backward"
    CLIP = "clip"
    UNSCALE = "unscale"
    STEP = "step"
    SKIP = "skipped step"
    SCHEDULER = "scheduler"
    ZERO_GRAD = "zero_grad"


@dataclass(frozen=True, slots=True)
class Wipe:
    """Gradients that backward made, no step had used, and a clear threw away.

    Args:
        backward: where they were made; None when they were there before the watch saw the optimizer.
        cleared: where they were cleared; None when by hand, outside `zero_grad`.
        batch: number of the batch they came from.
        inputs: number of the model input they came from; changes when the model is given another object.
        parameters: how many parameters lost theirs.
        in_closure: cleared or made inside a step's closure.
        forward_since: whether another forward with gradients ran between that backward and the step.
        claimed: another optimizer's step had used that same backward: the clear removed leftovers.
    """

    backward: Site | None
    cleared: Site | None
    batch: int
    inputs: int
    parameters: int
    in_closure: bool
    forward_since: bool
    claimed: bool


@dataclass(frozen=True, slots=True)
class StepReading:
    """What the gradient ledger says of the gradients one executed step used.

    Counts are of parameters of this optimizer. `fresh`: only gradients no step of this optimizer had
    used; `mixed`: fresh ones added on top of used ones; `reused`: used ones alone; `written`: changed or
    set by hand since the last step; `without`: None or cleared. They add up to `parameters`.

    Args:
        optimizer, number: its label, and which optimizer of the run it is.
        stock: one of torch's own, of which it is known that a step without gradients does nothing.
        contributions: how many backwards added to a parameter since it was cleared, at most.
        made_by, batches, inputs: of those backwards; an input of -1 takes a gradient itself.
        used_by: the step before this one.
        stale_from: where the used part of mixed gradients was made.
        wipes: what was cleared unused since the step before.
        closure: forward, backward or a clear ran inside the step.
        inside_backward: the step runs in a gradient hook.
        wraps_a_step: another optimizer's step ran inside this one.
        idle: every rate is 0 or every parameter frozen. Known only where nothing is fresh, as are the next two.
        worked: a forward with gradients or a backward ran since the step before.
        others_fed: the last backward since the step before was used by another optimizer.
        confirmed: where something looks wrong, that values bear it out (`doubt.py`).
        steps: how many steps this optimizer has executed, this one included.
        least: contributions to the parameter that got the fewest, of those that got any.
    """

    optimizer: str
    number: int
    stock: bool
    parameters: int
    without: int
    fresh: int
    mixed: int
    reused: int
    written: int
    contributions: int
    made_by: tuple[Site, ...]
    batches: tuple[int, ...]
    inputs: tuple[int, ...]
    used_by: Site | None
    stale_from: Site | None
    wipes: tuple[Wipe, ...]
    closure: bool
    inside_backward: bool
    wraps_a_step: bool
    idle: bool
    worked: bool
    others_fed: bool
    confirmed: bool
    steps: int
    least: int = 0


@dataclass(frozen=True, slots=True)
class SchedulerReading:
    """A scheduler's advance.

    Args:
        scheduler: its class name.
        number: which scheduler of the run.
        optimizer: label of the optimizer it drives, where that one is known.
        steps_before: steps that optimizer had executed, or a GradScaler had skipped, before this advance.
        position: `last_epoch` after the advance; None where the scheduler has none.
        explicit: the caller gave the position (`step(epoch)`) or a metric.
    """

    scheduler: str
    number: int
    optimizer: str
    steps_before: int
    position: float | None
    explicit: bool


@dataclass(frozen=True, slots=True)
class LoaderReading:
    """An epoch of a loader began: somebody asked it for an iterator, to train or to evaluate.

    Args:
        number: which loader of the run.
        length: batches an epoch; None where that is not known (an iterable dataset, a generator).
    """

    number: int
    length: int | None


@dataclass(frozen=True, slots=True)
class LossTerm:
    """One term of a loss, at the node where it is reduced.

    Args:
        kind: the operation, as autograd names it: `NllLoss`, `MseLoss`, `Mean`, `Sum`; "" where nothing is there.
        reduction: "mean", "sum" or "none"; "" where the operation does not say.
        factor: product of the constants between the sum of terms and this one.
        valid: targets that count, where the operation keeps that number (unweighted cross-entropy).
        total: targets, ignored ones included.
    """

    kind: str
    reduction: str
    factor: float
    valid: float | None
    total: int | None


@dataclass(frozen=True, slots=True)
class Reach:
    """How a walked loss reaches one optimizer's trainable parameters.

    Args:
        optimizer, number: its label, and which optimizer of the run it is.
        parameters: how many are trainable.
        reached: how many of them the graph leads to.
        zeroed: of those, how many only through operations whose derivative is 0 everywhere.
        stale: of those, how many were used before the optimizer's last step, so with other values than now.
        step: that step, where there are any.
    """

    optimizer: str
    number: int
    parameters: int
    reached: int
    zeroed: int
    stale: int
    step: Site | None


@dataclass(frozen=True, slots=True)
class LossReading:
    """What the graph of a loss said when it was sent backward.

    `factor` and `terms` are read in the first updates, in accumulation windows, and else ever more rarely; all else
    only where `walked`.

    Args:
        factor: product of the constant factors outside the sum of terms, a GradScaler's left out.
        terms: the sum's terms; one where there is no sum.
        scaled: a GradScaler scales the loss.
        walked: every node was visited.
        leaf: the loss has no graph at all.
        opaque: kinds of nodes whose inside cannot be seen; what lies behind them is unknown.
        zeroes: operations met whose derivative is 0 everywhere.
        reaches: for each optimizer of the run.
        repeated: this very tensor was sent backward before in this update.
        retained: its graph was kept (`retain_graph`).
        double: a graph of the backward itself was asked for (`create_graph`).
        selective: it adds only to the tensors it was told to (`inputs`).
    """

    factor: float
    terms: tuple[LossTerm, ...]
    scaled: bool = False
    walked: bool = False
    leaf: bool = False
    opaque: tuple[str, ...] = ()
    zeroes: tuple[str, ...] = ()
    reaches: tuple[Reach, ...] = ()
    repeated: bool = False
    retained: bool = False
    double: bool = False
    selective: bool = False

    def shares(self) -> tuple[float | None, ...]:
        """The weight of each term's own mean in this loss; None where its reduction is not known, or a pure sum."""
        return tuple(self._share(term) for term in self.terms)

    def _share(self, term: LossTerm) -> float | None:
        factor = self.factor * term.factor
        if term.reduction == "mean":
            return factor
        if term.reduction == "sum" and term.valid is not None and factor != 1:
            return factor * term.valid
        return None


Reading = StepReading | SchedulerReading | LoaderReading | LossReading | None


@dataclass(frozen=True, slots=True)
class Event:
    """One event of an update: what, where, on which object, and what was read there."""

    kind: Kind
    site: Site | None = None
    subject: int = 0
    reading: Reading = None


@dataclass(frozen=True, slots=True)
class Update:
    """Everything between two executed steps.

    Args:
        number: executed steps of all optimizers so far, this update's own included.
        seen: how many updates of this signature there have been, this one included.
        updates: how many updates of any signature there have been, this one included.
        signature: what updates of one shape have in common, within a run.
        events: in order.
        truncated: more than `recorder.LONGEST` events; only the first ones and all steps are here.
    """

    number: int
    seen: int
    updates: int
    signature: int
    events: tuple[Event, ...]
    truncated: bool = False

    def steps(self) -> Iterator[tuple[Event, StepReading]]:
        """The executed steps, with what the ledger says of each."""
        for event in self.events:
            if isinstance(event.reading, StepReading):
                yield event, event.reading

    def losses(self) -> Iterator[tuple[Event, LossReading]]:
        """The backwards of which the graph was read."""
        for event in self.events:
            if isinstance(event.reading, LossReading):
                yield event, event.reading

    def schedulers(self) -> Iterator[tuple[Event, SchedulerReading]]:
        """The scheduler advances."""
        for event in self.events:
            if isinstance(event.reading, SchedulerReading):
                yield event, event.reading
