"""What was read of calls of loss functions, and of the models and batches before them, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loopkit.callsite import Site

Numbers = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class CriterionReading:
    """One call of a loss function of torch whose result was sent backward.

    Args:
        kind: the function's name: `cross_entropy`, `mse_loss`.
        site: where the user called it.
        update: of which update of the run, from 1.
        reduction: "none", "mean" or "sum".
        ignored: the class that does not count; None where targets are no classes.
        weighted: classes or elements have weights.
        smoothed: labels are smoothed, or the target is a logarithm (`kl_div`).
        classes: how many there are; 0 where targets are no classes.
        origin: the operation behind the views that its input is, as autograd names it; "" for none.
        shared: the loss is made of that input in another way as well.
        shape, target_shape: of input and target.
        numbers: what its values are like: see `lossvalues.py`.
        near: how the targets stand to each token tensor that the last model was given.
    """

    kind: str
    site: Site
    update: int
    reduction: str
    ignored: int | None
    weighted: bool
    smoothed: bool
    classes: int
    origin: str
    shared: bool
    shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    numbers: Numbers
    near: tuple[NearReading, ...] = ()


@dataclass(frozen=True, slots=True)
class NearReading:
    """Targets beside the tokens that the last model was given.

    Args:
        name: of the model's argument.
        causal: the model looks back alone: its attention is causal, or it is one recurrent layer.
        filler: the id that the model's embeddings declare as padding (`padding_idx`), or None.
        numbers: see `lossvalues.py`.
    """

    name: str
    causal: bool
    filler: int | None
    numbers: Numbers


@dataclass(frozen=True, slots=True)
class DoorReading:
    """One call of the outermost model.

    Args:
        model: its class.
        site: where the user called it.
        update: of which update of the run, from 1.
        unmasked: it takes an `attention_mask`, was given none, and has attention that looks both ways.
        filler: the id that it declares as padding, or None.
        first: what its first module with parameters is, such as `Conv2d`; "" for none.
        shape: of the first tensor it was given.
        tensors: how many it was given.
        numbers: see `lossvalues.py`.
    """

    model: str
    site: Site
    update: int
    unmasked: bool
    filler: int | None
    first: str
    shape: tuple[int, ...]
    tensors: int
    numbers: Numbers


@dataclass(frozen=True, slots=True)
class BatchReading:
    """A tensor of a batch.

    Args:
        name: its key or position.
        update: of which update of the run, from 1.
        shape: its sizes.
        numbers: `low` and `high`, its extremes.
    """

    name: str
    update: int
    shape: tuple[int, ...]
    numbers: Numbers


@dataclass(frozen=True, slots=True)
class Seen:
    """What was read since checks were last told."""

    calls: tuple[CriterionReading, ...] = ()
    doors: tuple[DoorReading, ...] = ()
    batches: tuple[BatchReading, ...] = field(default=())
