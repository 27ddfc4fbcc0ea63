"""Hears where losses are made and reads what they were given, in updates whose graphs are walked."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from loopkit import lossfunctions
from loopkit.graphwalk import Walk
from loopkit.lossmade import LossesMade
from loopkit.lossnodes import UnusedLoss
from loopkit.models import Models

if TYPE_CHECKING:
    from loopkit.callsite import Site
    from loopkit.lossgraph import RawLoss
    from loopkit.strays import Missed

    MissedBy = Mapping[int, tuple[Missed, ...]]


class Making:
    """The loss functions of the current update.

    Attributes:
        made: their calls.
        error: why they are not looked at any more, or None.
        on_watch: called to have the calls heard, or heard no more.
    """

    def __init__(self, models: Models) -> None:
        self.made = LossesMade()
        self.error: Exception | None = None
        self.on_watch: Callable[[bool], None] | None = None
        self._models = models

    def watch(self, on: bool) -> None:
        """Have the calls of loss functions heard from now on, or no more."""
        if self.on_watch is not None and not (on and self.error):
            self.on_watch(on)

    def called(self, kind: str, site: Site, args: tuple[Any, ...], result: Any) -> None:
        """A loss function of torch returned, with gradients on."""
        if self.error is not None:
            return
        try:
            if self.made.add(kind, site, args, result):
                self.made.leads(kind, site, Walk([result]).leaves)
        except Exception as error:  # noqa: BLE001
            self._fail(error)

    def sent(self, read: RawLoss, walk: Walk, missed: MissedBy, is_hooked: Callable[[Any], bool]) -> None:
        """A loss is sent backward: what its functions were given, and which calls are in no loss.

        Args:
            read: gets what is read.
            walk: of its graph.
            missed: what no gradient has ever reached, by the number of its optimizer.
            is_hooked: whether a node was made under saved-tensor hooks.
        """
        if self.error is not None:
            return
        try:
            read.nodes = lossfunctions.read(walk.losses, self.made.site_of, is_hooked)
            read.swapped = self.made.sent(walk.nodes)
            read.unused = self._unused(missed)
        except Exception as error:  # noqa: BLE001
            self._fail(error)

    def closed(self, *, walking: bool) -> None:
        """An update whose graphs were walked is over; those of the next one are walked, or not."""
        self.made.closed(walking=walking)
        if not walking:
            self.watch(False)

    def _unused(self, missed: MissedBy) -> tuple[UnusedLoss, ...]:
        """The losses that were made and never used, and what no gradient reaches without them."""
        unused = self.made.unused()
        if not unused:
            return ()
        names = {
            each.name: (number, each.name, each.updates) for number, several in missed.items() for each in several
        }
        spots = [spot for spot in self._models.modules() if spot.name in names] if names else []
        inside = {spot.name: {id(each) for each in spot.module.parameters()} for spot in spots}
        return tuple(
            UnusedLoss(kind, site, updates, tuple(names[name] for name, ids in inside.items() if ids & leaves))
            for site, (kind, updates, leaves) in unused.items()
        )

    def _fail(self, error: Exception) -> None:
        """An unheard-of kind of tensor costs these readings, not the others."""
        self.error = error
        self.watch(False)
        if os.environ.get("LOOPKIT_RAISE"):
            raise error
