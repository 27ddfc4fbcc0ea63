"""Parameters that a walked loss reaches and no optimizer owns; and those one owns and no gradient ever reaches."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.parameter import is_lazy

from loopkit.meant import Newcomers, meant_for, orphans
from loopkit.models import Models, Spot, is_own
from loopkit.strays import Missed, Stray
from loopkit.untouched import Untouched

if TYPE_CHECKING:
    from torch import Tensor

    from loopkit.graphwalk import Walk
    from loopkit.holdings import Owner
    from loopkit.ledger import Ledger

_SAMPLED = 8
"""Parameters of one part whose values are compared."""
_PARTS = 16
"""Parts told of one loss."""


class Survey:
    """Compares what losses reach with what optimizers own, update by update.

    Attributes:
        error: why it does so no more, or None.
        newcomers: what optimizers came to own late.
    """

    def __init__(self, models: Models, ledger: Ledger) -> None:
        self._models = models
        self._ledger = ledger
        self._untouched = Untouched()
        self.newcomers = Newcomers()
        self._last: dict[str, Callable[[], Tensor | None]] = {}  # the first stray of each part, at the last walk
        self._owned: dict[int, Callable[[], Tensor | None]] = {}
        self.error: Exception | None = None

    def of(self, walk: Walk, updates: int) -> tuple[tuple[Stray, ...], dict[int, tuple[Missed, ...]]]:
        """Strays of a walked loss, and what each optimizer (by number) has never stepped; `updates` so far."""
        if self.error is not None:
            return (), {}
        try:
            owners = self._ledger.owners()
            self.newcomers.look(owners, self._owned)
            owned = self._own(owners)
            missed = {owner.number: self._missed(owner, walk, updates) for owner in owners}
            return self._strays(walk, owned, updates), missed
        except Exception as error:
            self.error = error  # an unheard-of kind of model or parameter costs these readings, not the others
            if os.environ.get("LOOPKIT_RAISE"):
                raise
            return (), {}

    def _own(self, owners: Iterable[Owner]) -> dict[int, Owner]:
        """The parameters optimizers own now, by `id`. They are remembered: who was owned once is no stray."""
        now: dict[int, Owner] = {}
        for owner in owners:
            for each in owner.parameters():
                key = id(each)
                now[key] = owner
                known = self._owned.get(key)
                if known is None or known() is not each:
                    self._owned[key] = weakref.ref(each, lambda _, key=key: self._owned.pop(key, None))  # type: ignore[misc]
        return now

    def _strays(self, walk: Walk, owned: dict[int, Owner], updates: int) -> tuple[Stray, ...]:
        """Parameters the walk met that no optimizer owns or has owned, by the place they live in."""
        once = self._ledger.once_owned
        met = {
            key: leaf.tensor
            for key, leaf in walk.leaves.items()
            if key not in self._owned and key not in once and _is_plain(leaf.tensor)
        }
        if not met or not owned or any(owner.sharded for owner in self._ledger.owners()):
            return ()  # FSDP gathers parameters of its own for the time of a forward
        spots = self._models.parameters()
        beside = any(key in owned for key in spots)
        groups: dict[str, list[tuple[Spot, Tensor]]] = {}
        for key, spot in spots.items():
            if key in met:
                root = spot.parents[0] if spot.parents else spot.module
                groups.setdefault(spot.loose or type(root).__name__, []).append((spot, met[key]))
        lost = orphans(dict.fromkeys(owned.values()), spots, walk) if groups else {}
        return tuple(
            self._stray(name, group, owned, lost, beside, updates) for name, group in list(groups.items())[:_PARTS]
        )

    def _stray(
        self,
        name: str,
        group: list[tuple[Spot, Tensor]],
        owned: dict[int, Owner],
        lost: dict[Owner, list[Tensor]],
        beside: bool,
        updates: int,
    ) -> Stray:
        spot, _ = group[0]
        root = spot.parents[0] if spot.parents else spot.module
        tensors = [tensor for _, tensor in group]
        kept, walks = self._kept(tensors, updates)
        last, self._last[name] = self._last.get(name), weakref.ref(tensors[0])
        moved = not kept and last is not None and last() is tensors[0]
        meant = meant_for(root, tensors, owned, lost, moved=moved)
        return Stray(
            name=name,
            first=spot.name,
            root=type(root).__name__,
            parameters=len(group),
            elements=sum(tensor.numel() for _, tensor in group),
            loose=bool(spot.loose),
            alone=meant.owner is None,
            training=any(each.module.training for each, _ in group),
            beside=beside,
            updates=kept,
            walks=walks,
            norms=all("Norm" in type(each.module).__name__ for each, _ in group),
            replaced=meant.replaced,
            empty=meant.empty,
            optimizer=meant.owner.label if meant.owner is not None else "",
            made=meant.owner.made if meant.owner is not None else None,
            ids=tuple(map(id, tensors[:_SAMPLED])),
        )

    def _missed(self, owner: Owner, walk: Walk, updates: int) -> tuple[Missed, ...]:
        """Modules all of whose trainable parameters this optimizer owns, and none of which it has ever stepped."""
        if not owner.steps or owner.sharded:
            return ()
        state: Any = getattr(owner.optimizer(), "state", {})
        dead = {
            id(each): each
            for each in owner.parameters()
            if each.requires_grad
            and each.grad is None
            and id(each) not in walk.leaves
            and _is_plain(each)
            and not state.get(each)
        }
        if not dead:
            return ()
        return tuple(islice(self._parts(owner, dead, updates), _PARTS))

    def _parts(self, owner: Owner, dead: dict[int, Tensor], updates: int) -> Iterable[Missed]:
        """The outermost modules whose trainable parameters are all dead."""
        inside: set[int] = set()
        for spot in self._models.modules():
            if id(spot.module) in inside:
                continue
            trainable = [each for each in spot.module.parameters() if each.requires_grad]
            if not trainable or not all(id(each) in dead for each in trainable):
                continue
            inside |= {id(each) for each in spot.module.modules()}
            kept, _ = self._kept(trainable, updates)
            self._ledger.wait_for(owner, spot.name, trainable[:_SAMPLED])
            yield Missed(
                name=spot.name,
                parameters=len(trainable),
                elements=sum(each.numel() for each in trainable),
                called=self._models.was_called(spot.module),
                own=is_own(spot),
                updates=kept,
            )

    def _kept(self, parameters: Sequence[Tensor], updates: int) -> tuple[int, int]:
        """For how many updates all of them have kept their values, and how often they were asked about."""
        asked = [self._untouched.ask(each, updates) for each in parameters]
        if not self._untouched.confirm(parameters[:_SAMPLED]):
            return 0, 0
        return min(kept for kept, _ in asked), min(walks for _, walks in asked)


def _is_plain(tensor: Tensor) -> bool:
    """A parameter of a module, whose values can be read: not a meta, sharded or quantized one."""
    return (
        isinstance(tensor, nn.Parameter)
        and type(tensor.data).__name__ == "Tensor"
        and not is_lazy(tensor)
        and not tensor.is_meta
        and not tensor.is_inference()
        and not tensor.is_sparse
        and not hasattr(tensor, "_is_flat_param")
    )
