"""The record of one update: what happened between two executed optimizer steps, as plain data.

Nothing here needs torch: a check of order is a pure function of such a record and can be replayed.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loopkit.lossreading import LossReading

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loopkit.callsite import Site
    from loopkit.effect import Effect
    from loopkit.schedule import ScheduleReading


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
class Leak:
    """Gradients that one optimizer's step has used and another's are about to use as well.

    Args:
        backward: where they were made.
        optimizer: the one that used them first.
        step: where.
        own: the backward that added to them since.
    """

    backward: Site
    optimizer: str
    step: Site
    own: Site


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
        leaked: how many hold, beside gradients that nobody had used, those of a backward from another place that
            another optimizer's earlier step had used.
        leak: that one, where there are any.
        steps: how many steps this optimizer has executed, this one included.
        touched: what backward made may be scaled where versions do not show it: through `.data`, or in hooks.
        least: contributions to the parameter that got the fewest, of those that got any.
        scaled: a GradScaler executed it.
        effect: what it did, where that was looked at: in updates whose graph was walked.
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
    leaked: int
    leak: Leak | None
    steps: int
    least: int = 0
    touched: bool = False
    scaled: bool = False
    effect: Effect | None = None


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
        life: of this scheduler until now.
        odd: its position is a tensor, which is not read.
    """

    scheduler: str
    number: int
    optimizer: str
    steps_before: int
    position: float | None
    explicit: bool
    life: ScheduleReading
    odd: bool = False


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
class Clipped:
    """What a clip covered of one optimizer.

    Args:
        optimizer, number: its label, and which optimizer of the run it is.
        parameters: how many of its parameters were given.
        fresh: some parameter of this optimizer held gradients that no step of it had used.
        used: some held gradients that one had used.
    """

    optimizer: str
    number: int
    parameters: int
    fresh: bool
    used: bool


@dataclass(frozen=True, slots=True)
class ClipReading:
    """A clip of gradients, by norm or by value.

    Args:
        given: how many parameters; None where they came as a generator that is used up by now.
        unowned: how many of them belong to no optimizer that is known.
        owners: what it covered of each optimizer; none of those of which it covered nothing.
        limit: the norm or value allowed.
        norm: the total norm before; None for a clip by value, and where it cannot be read.
    """

    given: int | None
    unowned: int
    owners: tuple[Clipped, ...]
    limit: float
    norm: float | None

    @property
    def bound(self) -> bool:
        """Whether it is known that gradients were cut."""
        return self.norm is not None and self.norm > self.limit


@dataclass(frozen=True, slots=True)
class UnscaleReading:
    """A GradScaler divided an optimizer's gradients by its scale: asked to, or as part of its own step.

    Args:
        optimizer, number: its label, and which optimizer of the run it is.
        scale: about what it divided by; None where that cannot be read.
        plain: this scaler's `scale` is torch's own, so that a loss it has scaled is known by its graph.
    """

    optimizer: str
    number: int
    scale: float | None
    plain: bool


Reading = StepReading | SchedulerReading | LoaderReading | LossReading | ClipReading | UnscaleReading | None


@dataclass(frozen=True, slots=True)
class Pending:
    """An optimizer that backwards feed in a run in which no step was executed yet.

    Args:
        optimizer, number: its label, and which optimizer of the run it is.
        parameters: how many it has.
        fed: of those, how many held gradients when that was noted last: after the 2nd, 4th, 8th … backward.
        backwards: since the run began.
        unmoved: samples of its parameters had the same bits each time; None where that is not known.
        takes_gradient: an input of the model takes a gradient itself: weights may not be what is trained.
        site: the last backward.
    """

    optimizer: str
    number: int
    parameters: int
    fed: int
    backwards: int
    unmoved: bool | None
    takes_gradient: bool
    site: Site | None


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
        truncated: more than `record.LONGEST` events; only the first ones and all steps are here.
        pending: of an update that is still open, in a run without a step: the optimizers that wait for one.
    """

    number: int
    seen: int
    updates: int
    signature: int
    events: tuple[Event, ...]
    truncated: bool = False
    pending: tuple[Pending, ...] = ()

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

    def clips(self) -> Iterator[tuple[Event, ClipReading]]:
        """The clips."""
        for event in self.events:
            if isinstance(event.reading, ClipReading):
                yield event, event.reading

    def schedulers(self) -> Iterator[tuple[Event, SchedulerReading]]:
        """The scheduler advances."""
        for event in self.events:
            if isinstance(event.reading, SchedulerReading):
                yield event, event.reading
