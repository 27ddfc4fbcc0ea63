"""What a loss function is given, read from its graph: plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loopkit.callsite import Site


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation between a loss function and the layer that its input comes from.

    Args:
        name: as autograd names it: `LogSoftmax`, `Relu`, `Addmm`; `Dropout` for any form of that.
        shape: of what it gave.
        axis: that it normalises over, counted from 0; None where it does not.
        classes: which axis of `shape` holds the classes of the loss; None where it has none, or that is not known.
    """

    name: str
    shape: tuple[int, ...]
    axis: int | None = None
    classes: int | None = None


@dataclass(frozen=True, slots=True)
class Spread:
    """A difference or product of a prediction and a target whose shapes do not agree, so that both were repeated.

    Args:
        prediction: shape of the prediction.
        target: shape of the target, as far as it is known to be that; it has as many elements.
        result: shape of what came of them.
    """

    prediction: tuple[int, ...]
    target: tuple[int, ...]
    result: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LossNode:
    """A loss function in the graph of a loss.

    Args:
        kind: the operation, as autograd names it: `NllLoss`, `MseLoss`; `LogSoftmax` for a log-softmax that no
            `NllLoss` is made of; "" where it was put together by hand.
        site: where it was called; None where that was not heard.
        operations: between it and a layer, its own side first, views and casts left out; the last one is the layer,
            or whatever else is not looked through.
        classes: which axis of its input holds the classes, counted from 0; None where it has none.
        features: which axis of its input holds the features that the layer gave; None where that is not known.
        spread: how prediction and target were repeated to fit each other, where they were.
        negative: share of the targets below 0; known only where the prediction cannot be.
    """

    kind: str
    site: Site | None
    operations: tuple[Operation, ...]
    classes: int | None = None
    features: int | None = None
    spread: Spread | None = None
    negative: float | None = None

    @property
    def inputs(self) -> tuple[Operation, ...]:
        """The operations before the loss's own log-softmax, if it has one."""
        own = bool(self.operations) and self.operations[0].name == "LogSoftmax"
        return self.operations[own:]


@dataclass(frozen=True, slots=True)
class UnusedLoss:
    """A call of a loss function whose result has a graph and was never part of a loss that was sent backward.

    Args:
        kind: the function: `cross_entropy`.
        site: where it is called.
        updates: in how many it was called and not used, of those whose graphs were walked, as those after them.
        modules: what this loss reaches and no gradient ever has: of each the optimizer's number, the name, and for
            how many updates it has kept its values.
    """

    kind: str
    site: Site
    updates: int
    modules: tuple[tuple[int, str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Swapped:
    """A call of a loss function whose first argument has no graph and whose second one has.

    Args:
        kind: the function: `kl_div`.
        site: where it was called.
        target: how the second argument was made: the operation, as autograd names it.
        low, high: the least and the greatest number in the first argument.
        binary: the first argument holds 0 and 1 and nothing else.
    """

    kind: str
    site: Site
    target: str
    low: float
    high: float
    binary: bool
