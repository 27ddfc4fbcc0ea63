"""What the graph of a loss says, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loopkit.callsite import Site
    from loopkit.lossnodes import LossNode, Swapped, UnusedLoss
    from loopkit.strays import Missed, Stray


@dataclass(frozen=True, slots=True)
class Padding:
    """How the targets of a cross-entropy stand to the `attention_mask` of the forward that made it.

    Args:
        counted: targets that count: not ignored.
        padded: of those, how many stand on padding: the mask is 0 there, and up to that end of the sequence.
        token: the one target that all of the padded ones are; None where they differ or there are none.
        filler: the one token id that stands wherever there is padding; None where that is not known.
        rows: sequences whose next to last real token is a target that counts.
        dropped: of those, how many end in a real `filler` that is ignored.
        learned: targets that count and are `filler`.
    """

    counted: int
    padded: int
    token: int | None
    filler: int | None
    rows: int
    dropped: int
    learned: int


@dataclass(frozen=True, slots=True)
class LossTerm:
    """One term of a loss, at the node where it is reduced.

    Args:
        kind: the operation, as autograd names it: `NllLoss`, `MseLoss`, `Mean`, `Sum`; "" where nothing is there.
        reduction: "mean", "sum" or "none"; "" where the operation does not say.
        factor: product of the constants between the sum of terms and this one.
        valid: targets that count, where the operation keeps that number (unweighted cross-entropy).
        total: targets, ignored ones included.
        padding: targets beside the attention mask, where the graph was walked and the targets are known to be those
            of one forward.
    """

    kind: str
    reduction: str
    factor: float
    valid: float | None
    total: int | None
    padding: Padding | None = None


@dataclass(frozen=True, slots=True)
class Reach:
    """How a walked loss reaches one optimizer's trainable parameters.

    Args:
        optimizer, number: its label, and which optimizer of the run it is.
        parameters: how many are trainable.
        reached: how many of them the graph leads to.
        zeroed: of those, how many only through operations whose derivative is 0 everywhere.
        stale: of those, how many were used before a step moved them, so with other values than now.
        current: of those that a step has moved at all, how many were used since.
        step: the optimizer's last step, where any are stale.
        changed: how many were changed through `.data` since the forward that used them, of the few that are sampled.
        missed: modules all of whose parameters it owns and has never stepped, and which this loss does not reach.
        idle: how many parameters came to it after others of it had been trained, if all that came then is frozen.
        made: where it was constructed, if that was heard.
    """

    optimizer: str
    number: int
    parameters: int
    reached: int
    zeroed: int
    stale: int
    current: int
    step: Site | None
    changed: int = 0
    missed: tuple[Missed, ...] = ()
    idle: int = 0
    made: Site | None = None


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
        parameters: some `nn.Parameter` is reached, whoever owns it.
        strays: parameters reached that no optimizer owns or has owned.
        repeated: this very tensor was sent backward before in this update.
        repeats: which backward of this update, from 0, had sent the same loss, or a part of the sum that it is.
        retained: its graph was kept (`retain_graph`).
        double: a graph of the backward itself was asked for (`create_graph`).
        spare: the backward just before this one kept its graph (`retain_graph`), and this one uses none made by then.
        selective: it adds only to the tensors it was told to (`inputs`).
        nodes: the loss functions in its graph.
        swapped: calls of loss functions since the backward before that were given a target with a graph and a
            prediction without one.
        unused: losses made in this update that were never part of one that was sent backward.
        dtype: of the loss, such as "float32".
        autocast: the type autocast casts to while this backward runs; "" where it is off, as it should be.
        casts: how many weights were cast on use, by type: autocast was on around the forward.
        wide: matrix products and convolutions that the forward made in float32, where autocast is on now.
    """

    factor: float
    terms: tuple[LossTerm, ...]
    scaled: bool = False
    walked: bool = False
    leaf: bool = False
    opaque: tuple[str, ...] = ()
    zeroes: tuple[str, ...] = ()
    reaches: tuple[Reach, ...] = ()
    parameters: bool = False
    strays: tuple[Stray, ...] = ()
    repeated: bool = False
    repeats: int | None = None
    retained: bool = False
    double: bool = False
    selective: bool = False
    nodes: tuple[LossNode, ...] = ()
    swapped: tuple[Swapped, ...] = ()
    unused: tuple[UnusedLoss, ...] = ()
    spare: bool = False
    dtype: str = ""
    autocast: str = ""
    casts: tuple[tuple[str, int], ...] = ()
    wide: int = 0

    def shares(self) -> tuple[float | None, ...]:
        """The weight of each term's own mean in this loss; None where its reduction is not known, or a pure sum."""
        return tuple(self._share(term) for term in self.terms)

    @property
    def cut(self) -> str:
        """Why this loss cannot train what any optimizer owns, where its graph proves it: "leaf" (it has no graph),
        "apart" (it has one that ends elsewhere) or "zero" (every path passes a derivative that is 0); else "".
        """
        if not self.walked or self.opaque or self.selective or not self.reaches:
            return ""
        if not any(reach.reached for reach in self.reaches):
            return "" if self.parameters else "leaf" if self.leaf else "apart"
        return "" if any(reach.reached > reach.zeroed for reach in self.reaches) else "zero"

    def _share(self, term: LossTerm) -> float | None:
        factor = self.factor * term.factor
        if term.reduction == "mean":
            return factor
        if term.reduction == "sum" and term.valid is not None and factor != 1:
            return factor * term.valid
        return None
