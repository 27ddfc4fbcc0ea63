"""What was seen of the modes of modules, as plain data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import nn

    from loopkit.callsite import Site


@dataclass(slots=True)
class ModeChange:
    """A call of `train()` or `eval()` on a module, not by its parent.

    Args:
        module: weakly.
        name: its class.
        training: the mode it was put in.
        site: where.
        backwards: of the run, before it.
        evaluations, forwards: forwards without and with gradients, before it.
        steps: executed, before it.
        ends_evaluation: it ended one: the module was in evaluation mode, and had been called without gradients.
        first: what the module did first in that mode: "evaluated", "trained", or "" for nothing yet.
    """

    module: Callable[[], nn.Module | None]
    name: str
    training: bool
    site: Site
    backwards: int
    evaluations: int
    forwards: int
    steps: int
    ends_evaluation: bool = False
    first: str = ""


class Evaluated(NamedTuple):
    """A trained model was called with gradients on while it was in evaluation mode, and no backward followed.

    Args:
        model: its class.
        site: where it was put in that mode.
        forwards: how many calls there were.
        steps: executed before it.
    """

    model: str
    site: Site
    forwards: int
    steps: int


class Draw(NamedTuple):
    """A dropout that was executed.

    Args:
        kind: the function: "dropout", "scaled_dot_product_attention".
        p: the probability.
        site: where it was called.
    """

    kind: str
    p: float
    site: Site


@dataclass(slots=True)
class ForwardReading:
    """A call of an outermost module without gradients. Of each row of such calls the first two are looked at.

    Args:
        number: counts readings of a run.
        model: its class.
        site: where it was called.
        training: the flag of the module itself.
        still: no module inside it is in training mode.
        awake: layers in training mode that do something else then, by name.
        static: its parameters had the same values at each look, of which there were `looks`.
        looks: at this module, this one included.
        owned: some parameter of it is an optimizer's.
        optimizers: how many there are.
        steps: executed before it.
        since: steps executed since the row of such calls before this one, or since the run began.
        backwards: of the run, before it.
        fresh: a batch had come that no backward had followed.
        loader: what tells the loader of the last batch from others; () when it is not known.
        told: it was put into training mode since the last backward, other than to end an evaluation; or before, by
            name: `ever_told`.
        moved: of the awake layers, those whose running statistics the call changed.
        recalibrates: some of those average over all batches (a momentum of None): statistics are computed anew.
        draws: dropouts executed inside.
        calls: in this row, so far.
        batches: that these calls were of, as far as they are told apart by loader or object.
        repeated: one input was given twice in the row.
    """

    number: int
    model: str
    site: Site
    training: bool
    still: bool
    awake: tuple[str, ...]
    static: bool
    looks: int
    owned: bool
    optimizers: int
    steps: int
    since: int
    backwards: int
    fresh: bool
    loader: tuple[object, ...]
    told: bool
    ever_told: bool
    moved: tuple[str, ...] = ()
    recalibrates: bool = False
    draws: list[Draw] = field(default_factory=list)
    calls: int = 1
    batches: int = 1
    repeated: bool = False


class FrozenNorm(NamedTuple):
    """A batch normalisation with frozen parameters that follows the data all the same.

    Args:
        name: from the outermost module on.
        looks: how many updates were looked at, all with frozen parameters.
        moved: the statistics changed between the first and the last of them.
        trained: they were not those of a new layer at the first.
        shift: how far the mean has moved since, in standard deviations of then: the median of channels.
        ratio: by which factor the variance has changed since: the median of channels.
    """

    name: str
    looks: int
    moved: bool
    trained: bool
    shift: float
    ratio: float


class Recomputed(NamedTuple):
    """Batch normalisations whose statistics moved once more while gradients were computed.

    Args:
        layers: their names.
        backward: where gradients were computed.
        steps: executed before it.
    """

    layers: tuple[str, ...]
    backward: Site
    steps: int


@dataclass(frozen=True, slots=True)
class TrainReading:
    """A backward that trains an outermost module, in an update whose graphs are walked.

    Args:
        number: counts readings of a run.
        model: the module's class.
        training: the flag of the module itself, in its last forward.
        forward: where that was called.
        backward: where backward was.
        steps: executed before it.
        owned: some parameter that it reached is an optimizer's.
        asleep: layers in evaluation mode that do something else in training, around trainable parameters; by name.
        awake: such layers in training mode.
        blank: of the sleeping ones, batch normalisations whose statistics no batch has ever changed.
        change: the last call of `train()` or `eval()` that reached the module.
        norms: for each batch normalisation in the graph that used the statistics of its batch, the size of the
            batch and the values a channel.
        dropouts: the dropouts among the awake layers, each with its probability.
        given: the first dimension of what the module was called with; 0 if that is not known.
    """

    number: int
    model: str
    training: bool
    forward: Site
    backward: Site | None
    steps: int
    owned: bool
    asleep: tuple[str, ...]
    awake: tuple[str, ...]
    blank: int
    change: ModeChange | None
    norms: tuple[tuple[int, int], ...]
    dropouts: tuple[tuple[str, float], ...]
    given: int
