"""The target was given to a loss function as the prediction, and the prediction as the target."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Event, Finding, Severity, Swapped, Update, hookimpl

_ROUNDING = 1e-3
_SCORES = ("Addmm", "Mm", "Convolution")


class LossArgsSwapped:
    """A loss that treats its arguments differently was given them in the wrong order.

    What it looks for
        Calls of `kl_div`, `binary_cross_entropy` (with logits or without) and `cross_entropy` in a loss, whose first
        argument has no graph while the second has one; and whose numbers cannot be what belongs there: probabilities
        in place of log-probabilities, labels of 0 and 1 in place of scores, or raw scores in place of probabilities
        in the second.

    Why that hurts
        The formula is another one. It often has no minimum: the loss falls without bound, or ends in nan.

    A loop that has it
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.binary_cross_entropy_with_logits(y, model(x))
            loss.backward()
            optimizer.step()

    The repair
        Prediction first, target second: `loss(model(x), y)`.

    Left alone
        The reverse divergence, `kl_div` of a teacher's log-probabilities and a student's probabilities; soft targets
        that are learned; losses that are the same either way (mean squared error); calls that are in no loss.

    What it costs
        In the updates whose graphs are walked, a wrapper around these functions; three numbers from the device where
        the order is suspect.
    """

    rule = "loss-args-swapped"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    @hookimpl
    def update_finished(self, update: Update) -> Iterator[Finding]:
        """Judge each call whose target has the graph."""
        for event, loss in update.losses():
            for call in loss.swapped:
                what = _proof(call)
                if what and event.site is not None:
                    yield self._finding(event, call, what, update.number)

    def _finding(self, event: Event, call: Swapped, what: str, number: int) -> Finding:
        backward = event.site
        assert backward is not None
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=call.site.place,
            places={"loss": call.site.place, "backward": backward.place},
            seen=f"the second argument of {call.kind}, the target, has a graph, and the first has none: {what}",
            why="prediction and target have changed places: another formula is minimised, which may have no minimum",
            remedy=f"give the prediction first and the target second: {call.kind}(prediction, target)",
            evidence={
                "function": call.kind,
                "first_least": call.low,
                "first_greatest": call.high,
                "loss_frames": [str(place) for place in call.site.chain],
                "backward_frames": [str(place) for place in backward.chain],
                "framework": str(call.site.framework) if call.site.framework else None,
            },
            step=number,
        )


def _proof(call: Swapped) -> str:
    """Why the first argument cannot be the prediction; "" where it can."""
    if call.kind == "kl_div":
        return (
            f"that reaches {call.high:.2g}, and a log-probability is never above 0" if call.high > _ROUNDING else ""
        )
    if call.binary:
        return "that is all 0 and 1, as labels are"
    if call.kind == "cross_entropy" and call.target in _SCORES:
        return "the target is the output of a layer, and no probabilities"
    return ""
