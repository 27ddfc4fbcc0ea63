"""What changes gradients between a backward and the step: clears, clips, the unscaling of a GradScaler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loopkit.clips import Clips
from loopkit.expected import NOTHING
from loopkit.record import LONGEST
from loopkit.scaling import unscaled_by
from loopkit.settling import Settling
from loopkit.signature import CLIP, UNSCALE, ZERO_GRAD

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch.optim import Optimizer

    from loopkit.callsite import CallSites
    from loopkit.ledger import Ledger
    from loopkit.models import Models
    from loopkit.signature import Signature
    from loopkit.update import Update


class Clearing(Settling):
    """A record that hears of them.

    Attributes:
        clears: so far.
        in_backward: how many backwards are running, one inside the other.
    """

    def __init__(
        self, sites: CallSites, ledger: Ledger, models: Models, deliver: Callable[[Update, Signature], None]
    ) -> None:
        super().__init__(ledger, models, deliver)
        self.sites = sites
        self.clears = self.in_backward = 0
        self._clips = Clips(ledger)

    def look_before_change(self) -> None:
        """A clip, an unscale or a module's `zero_grad` comes: what changed by hand until now is not its doing."""
        if not self.in_backward:
            self.ledger.look_for_hands()

    def meets(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The gradients it is about to clear are still there to be seen, those of an older optimizer too."""
        self.ledger.settle()
        if not self.ledger.knows(args[0]):
            self.ledger.owner(args[0])

    def zeroed(self, args: tuple[Any, ...], kwargs: dict[str, Any], *_: object) -> None:
        """`Optimizer.zero_grad(set_to_none=True)` returned."""
        self.clears += 1
        site, expected = self.sites.here(ZERO_GRAD, brief=True), self.expected
        if expected is not NOTHING:
            same = expected.kind == ZERO_GRAD and expected.key == id(args[0]) and site is expected.site
            if same and len(args) == 1 and not kwargs and (not expected.closes or self._goes_on()):
                self.expected = expected.then
                return
            self.wake()
        ledger = self.ledger
        owner = ledger.usual
        if owner is None or owner.optimizer() is not args[0]:
            owner = ledger.owner(args[0])
        if (len(args) == 1 and not kwargs) or (args[1] if len(args) > 1 else kwargs.get("set_to_none", True)):
            ledger.emptied(owner, site)
        else:
            ledger.cleared([owner], site)
        if self._prelude or not self._prelude_over:
            self._may_open(ZERO_GRAD | site.bits, site)
        if len(self._events) < LONGEST:  # what `_note` does
            self._events.append((ZERO_GRAD | site.bits, site, None))

    def module_cleared(self) -> None:
        """`Module.zero_grad()` returned."""
        self.clears += 1
        site = self.sites.here(ZERO_GRAD, brief=True)
        if not self.in_backward:
            self.ledger.cleared(self.ledger.owners(), site)
        self._may_open(ZERO_GRAD, site)
        self._note(ZERO_GRAD | site.bits, site)

    def clipped(self, parameters: list[torch.Tensor] | None, limit: float, norm: Any) -> None:
        """Gradients were clipped in place."""
        site = self.sites.here(CLIP, brief=True)
        raw, shape = None, 0
        if not self.in_backward:  # in a gradient hook it is not known yet what is there to clip
            versions = [owner.versions for owner in self.ledger.owners()] if parameters is None else []
            self.ledger.excuse(self.ledger.owners())
            raw, shape = self._clips.read(site, parameters, limit, norm, versions)
        self._note(CLIP | shape << 12 | site.bits, site, raw)

    def unscaled(self, optimizer: Optimizer, scaler: Any) -> None:
        """A GradScaler unscaled one optimizer's gradients in place."""
        owner = self.ledger.owner(optimizer)
        self.ledger.excuse([owner])
        site = self.sites.here(UNSCALE, brief=True)
        self._note(UNSCALE | owner.bits | site.bits, site, unscaled_by(scaler, owner))
