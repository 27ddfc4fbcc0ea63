"""Backward runs inside the autocast context."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Event, Finding, LossReading, Severity, Update, hookimpl


class BackwardUnderAutocast:
    """The autocast context also encloses backward, so derivatives of float32 operations run in half precision.

    What it looks for
        Autocast is on when backward begins. What the forward made in half precision has its derivatives there in any
        case; matrix products and convolutions that it made in float32 on purpose do not, unless autocast casts them
        now: where the graph has such operations, that is a warning.

    Why that hurts
        The float32 part of the model, a loss or a norm that needs the digits, gets gradients of half precision.

    A loop that has it
        with torch.autocast("cuda"):
            with torch.autocast("cuda", enabled=False):
                scores = head(features.float())
            loss = criterion(scores, target)
            loss.backward()

    The repair
        Close the context after the loss; backward and step stand behind it.

    Left alone
        Where all that autocast would cast was cast in the forward already, that is only said (info): nothing changes.
        A backward with `create_graph`, as for a gradient penalty.

    What it costs
        Nothing of its own: the flag is read where the graph of a loss is walked.
    """

    rule = "backward-under-autocast"
    severity = Severity.WARNING
    confidence = Confidence.PROOF

    @hookimpl
    def update_finished(self, update: Update) -> Iterator[Finding]:
        """Look at the backwards whose graph was walked."""
        for event, loss in update.losses():
            if loss.autocast and event.site is not None and not loss.double:
                yield self._finding(update, event, loss)
                return

    def _finding(self, update: Update, event: Event, loss: LossReading) -> Finding:
        assert event.site is not None
        wide = loss.wide
        return Finding(
            rule=self.rule,
            severity=Severity.WARNING if wide else Severity.INFO,
            confidence=Confidence.PROOF if wide else Confidence.FACT,
            place=event.site.place,
            places={"backward": event.site.place},
            seen=f"backward runs while autocast casts to {loss.autocast}"
            + (f", and {wide} matrix products or convolutions of its graph were made in float32" if wide else ""),
            why=f"their derivatives are computed in {loss.autocast} now, with fewer digits than the forward had"
            if wide
            else "torch advises against it; here the forward had cast all that autocast casts, so nothing changes",
            remedy="end the autocast context after the loss, before backward",
            evidence={
                "autocast": loss.autocast,
                "float32_products": wide,
                "casts": dict(loss.casts),
                "backward_frames": [str(place) for place in event.site.chain],
            },
            step=update.number,
        )
