"""All units of a layer began with the same weights, and training cannot tell them apart."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import (
    Confidence,
    Event,
    Finding,
    Kind,
    Ledger,
    Models,
    Run,
    Severity,
    Symmetry,
    Twins,
    Update,
    hookimpl,
)

_UPDATES = 8
_STUCK = 16  # updates: a coefficient of the loss may begin at 0


class DegenerateInit:
    """A layer was initialized with one constant, and its units stay copies of each other.

    What it looks for
        Linear and convolutional layers whose weight has the same bits in every row after the first update, and still
        has after eight and more, although it is trained and has moved. And two or more that are called in training,
        began at 0 and are 0 after sixteen.

    Why that hurts
        Equal units compute the same and get the same gradient: they stay equal for ever. A layer of 512 units is a
        layer of one.

    A loop that has it
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                nn.init.constant_(layer.weight, 0.01)

    The repair
        Initialize weights at random: `nn.init.kaiming_uniform_`, `nn.init.xavier_uniform_`, or the layer's own
        `reset_parameters()`. Biases and norm scales may be constant.

    Left alone
        Layers that begin at zero and part at the first step, as the last one of a residual branch, adapters and
        classification heads do; layers that are frozen, not reached or not moved; embeddings, norms and recurrent
        layers; layers with one unit; dropout, which tells units apart.

    What it costs
        After the first update a corner of 64 by 64 of each weight is compared on its device, and one answer a layer
        is read in one transfer; after the 2nd, 4th, 8th … of those alone whose units were equal then.
    """

    rule = "degenerate-init"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._next = 1  # the number of the update from which on it is worth while to look again

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> Iterator[Finding]:
        """Look at layers that are new, and again at those whose units are equal."""
        at = update.updates
        if at < self._next:
            return
        self._next = 2 * at
        event = next((each for each in update.events if each.kind is Kind.BACKWARD and each.site), None)
        if event is None:
            return
        found = run.instrument(Symmetry).look(run.instrument(Models), run.instrument(Ledger))
        stuck = [each for each in found if each.stuck]
        for twins in found if at >= _UPDATES else ():
            if twins.name not in self._told and (
                twins.moved or (at >= _STUCK and len(stuck) > 1 and twins is stuck[0])
            ):
                self._told.add(twins.name)
                yield self._finding(event, twins, [each.name for each in stuck], update)

    def _finding(self, event: Event, twins: Twins, stuck: list[str], update: Update) -> Finding:
        assert event.site is not None
        if twins.moved:
            seen = f"all {twins.units} units of {twins.name} have the same weights after {update.updates} updates, "
            seen += "though these have moved: they were initialized with one constant"
            why = "equal units get equal gradients and stay equal: the layer is no wider than one unit"
        else:
            seen = f"the weights of {', '.join(stuck)} began at 0 and still are after {update.updates} updates"
            why = (
                "through a weight of 0 no gradient comes back, and one that gets only zeros has none: both stay at 0"
            )
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=event.site.place,
            places={"backward": event.site.place},
            subject=twins.name,
            seen=seen,
            why=why,
            remedy="initialize the weight at random (nn.init.kaiming_uniform_, reset_parameters()); only biases and "
            "norm scales may be constant",
            evidence={"weight": twins.name, "units": twins.units, "updates": update.updates},
            step=update.number,
        )
