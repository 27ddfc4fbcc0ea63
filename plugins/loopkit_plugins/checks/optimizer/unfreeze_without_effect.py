"""A second phase of training adds parameters to the optimizer, and all of them are still frozen."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Event, Finding, Reach, Severity, Update, hookimpl


class UnfreezeWithoutEffect:
    """Parameters are given to an optimizer in mid-run, and stay frozen until the end.

    What it looks for
        A new optimizer, or a new parameter group, that comes after training has begun and holds, beside parameters
        that were trained before, others that no optimizer had: every one of those has `requires_grad` False until
        the run ends.

    Why that hurts
        The second phase trains exactly what the first one did: the unfreezing was forgotten, or set another model's
        parameters free.

    A loop that has it
        model.backbone.requires_grad_(False)
        fit(model, Adam(model.head.parameters()))
        fit(model, Adam(model.parameters()))

    The repair
        Call `requires_grad_(True)` on what the second phase should train, or do not pass it to the optimizer.

    Left alone
        Frozen parameters that were in the optimizer from the beginning, as where `model.parameters()` is passed for
        simplicity; a phase that adds any trainable parameter; what is unfrozen later, however late.

    What it costs
        A look at the parameters of each optimizer, in those updates whose graph is walked.
    """

    rule = "unfreeze-without-effect"
    severity = Severity.WARNING
    confidence = Confidence.FACT

    def __init__(self) -> None:
        self._suspects: dict[int, Finding] = {}

    @hookimpl
    def update_finished(self, update: Update) -> None:
        """Keep what the latest walk says of each optimizer."""
        for event, loss in update.losses():
            for reach in loss.reaches:
                if reach.idle and event.site is not None:
                    self._suspects[reach.number] = self._finding(event, reach, update.number)
                else:
                    self._suspects.pop(reach.number, None)

    @hookimpl
    def run_finished(self) -> Iterator[Finding]:
        """No later unfreezing explains what is left."""
        yield from self._suspects.values()

    def _finding(self, event: Event, reach: Reach, number: int) -> Finding:
        assert event.site is not None
        places = {"backward": event.site.place}
        if reach.made is not None:
            places["optimizer constructed"] = reach.made.place
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=places.get("optimizer constructed", event.site.place),
            places=places,
            subject=reach.optimizer,
            seen=f"{reach.idle} parameters came to {reach.optimizer} after training had begun, and all of them are "
            f"frozen (requires_grad=False) until the end: only the {reach.parameters} others are trained",
            why="this phase trains what the one before it did; what was added is never updated",
            remedy="call requires_grad_(True) on what should be unfrozen, or leave it out of the optimizer",
            evidence={
                "optimizer": reach.optimizer,
                "frozen": reach.idle,
                "trainable": reach.parameters,
                "backward_frames": [str(place) for place in event.site.chain],
            },
            step=number,
        )
