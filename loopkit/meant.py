"""Which optimizer was meant to own parameters that none does, or to train those that came to it late."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from loopkit.graphwalk import Walk
    from loopkit.holdings import Owner


class Meant(NamedTuple):
    """What speaks for an optimizer.

    Attributes:
        owner: that optimizer; None where nothing does.
        replaced: how many it holds others of the same shape for, which nobody uses.
        empty: it has a parameter group that holds nothing.
    """

    owner: Owner | None
    replaced: int = 0
    empty: bool = False


def meant_for(
    root: nn.Module,
    strays: Sequence[Tensor],
    owned: Mapping[int, Owner],
    lost: Mapping[Owner, Sequence[Tensor]],
    *,
    moved: bool,
) -> Meant:
    """The optimizer that should own `strays`.

    Args:
        root: the outermost module they belong to.
        owned: who owns what, by `id`.
        lost: what optimizers hold that nobody uses.
        moved: somebody trains the strays all the same, as from masters in higher precision.
    """
    beside = next((owned[id(each)] for each in root.parameters() if id(each) in owned), None)
    if beside is not None:
        return Meant(beside, 0 if moved else _alike(strays, lost.get(beside, ())), _has_empty_group(beside))
    for owner, orphaned in lost.items() if not moved else ():
        # Another module may have parameters of these shapes, so all must be lost that the optimizer would train.
        trainable = [each for each in owner.parameters() if each.requires_grad]
        if len(orphaned) == len(trainable) and _alike(strays, orphaned) == len(strays):
            return Meant(owner, len(strays))
    hollow = [owner for owner in dict.fromkeys(owned.values()) if _has_empty_group(owner)]
    return Meant(hollow[0], empty=True) if hollow else Meant(None)


def orphans(owners: Iterable[Owner], used: Mapping[int, object], walk: Walk) -> dict[Owner, list[Tensor]]:
    """What optimizers hold that the loss does not reach and that is in none of the modules called so far."""
    return {
        owner: [
            each
            for each in owner.parameters()
            if each.requires_grad and id(each) not in used and id(each) not in walk.leaves
        ]
        for owner in owners
    }


def _alike(strays: Iterable[Tensor], others: Iterable[Tensor]) -> int:
    """How many of the one have a partner of the same shape and type among the other."""
    one, other = (Counter((tuple(each.shape), each.dtype) for each in some) for some in (strays, others))
    return (one & other).total()


def _has_empty_group(owner: Owner) -> bool:
    groups = getattr(owner.optimizer(), "param_groups", ())
    return any(not group["params"] for group in groups)


class Newcomers:
    """Parameters that come to an optimizer after it, or one before it, had trained others that it holds."""

    def __init__(self) -> None:
        self._came: dict[int, tuple[Callable[[], Optimizer | None], list[Callable[[], Tensor | None]]]] = {}

    def look(self, owners: Iterable[Owner], owned: Mapping[int, Callable[[], Tensor | None]]) -> None:
        """Compare what optimizers hold with what any `owned` when a loss was walked last."""
        for owner in owners:
            new: list[Tensor] = []
            old = 0
            for each in owner.parameters():
                known = owned.get(id(each))
                if known is not None and known() is each:
                    old += 1
                else:
                    new.append(each)
            if new and old:
                self._came[owner.number] = owner.optimizer, [weakref.ref(each) for each in new]

    def idle(self, owner: Owner) -> int:
        """How many came last, if every one of them is frozen."""
        optimizer, came = self._came.get(owner.number, (None, []))
        if optimizer is not owner.optimizer:
            return 0
        alive = [each for known in came if (each := known()) is not None]
        frozen = all(not each.requires_grad and each.grad is None for each in alive)
        return len(alive) if frozen else 0
