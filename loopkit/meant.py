"""Which optimizer was meant to own parameters that none does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor, nn

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
    root: nn.Module, strays: Sequence[Tensor], owned: Mapping[int, Owner], lost: Mapping[Owner, Sequence[Tensor]]
) -> Meant:
    """The optimizer that should own `strays`.

    Args:
        root: the outermost module they belong to.
        owned: who owns what, by `id`.
        lost: what optimizers hold that nobody uses.
    """
    beside = next((owned[id(each)] for each in root.parameters() if id(each) in owned), None)
    if beside is not None:
        return Meant(beside, _alike(strays, lost.get(beside, ())), _has_empty_group(beside))
    for owner, orphaned in lost.items():
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
    """How many of the one have a partner of the same shape among the other."""
    return (Counter(tuple(each.shape) for each in strays) & Counter(tuple(each.shape) for each in others)).total()


def _has_empty_group(owner: Owner) -> bool:
    groups = getattr(owner.optimizer(), "param_groups", ())
    return any(not group["params"] for group in groups)
