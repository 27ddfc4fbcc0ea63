"""Parameters that were frozen in mid-training keep moving."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Event, Finding, Severity, StepReading, Update, hookimpl


class FrozenParamsStillMove:
    """Freezing stops gradients from coming; the optimizer goes on with the ones that are there.

    What it looks for
        A step that changes values of parameters whose `requires_grad` is False: they still have a gradient, which no
        backward has made since the last step. It is zero, as after `zero_grad(set_to_none=False)`, or an old one.

    Why that hurts
        torch's optimizers skip a parameter without gradient, not a frozen one. With a gradient of 0, momentum and
        weight decay go on moving it; with an old one that is applied again at every step.

    A loop that has it
        for epoch in range(epochs):
            if epoch == 3:
                model.backbone.requires_grad_(False)
            for x, y in loader:
                optimizer.zero_grad(set_to_none=False)
                criterion(model(x), y).backward()
                optimizer.step()

    The repair
        Set the gradients of what is frozen to None (`p.grad = None`), clear with `zero_grad()` as it is by default,
        or leave frozen parameters out of the optimizer.

    Left alone
        Frozen parameters without a gradient, and those that do not move; teachers that an average moves, which are
        in no optimizer; what is frozen after this update's backward.

    What it costs
        A look at the parameters of each optimizer, in those updates whose graph is walked; one value is read where a
        frozen one has a gradient.
    """

    rule = "frozen-params-still-move"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    @hookimpl
    def update_finished(self, update: Update) -> Iterator[Finding]:
        """Judge what the steps of this update moved."""
        for event, step in update.steps():
            effect = step.effect
            if effect is not None and effect.frozen and effect.drifted and event.site is not None:
                yield self._finding(event, step, update.number)

    def _finding(self, event: Event, step: StepReading, number: int) -> Finding:
        assert event.site is not None
        assert step.effect is not None
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=event.site.place,
            places={"step": event.site.place},
            subject=step.optimizer,
            seen=f"{step.effect.frozen} parameters of {step.optimizer} are frozen (requires_grad=False), still have "
            "a gradient that no backward has made since the last step, and moved at this one",
            why="an optimizer skips parameters whose gradient is None, not those that are frozen: momentum, weight "
            "decay or the old gradient go on moving them",
            remedy="set p.grad = None when freezing, call zero_grad() with set_to_none=True, or take frozen "
            "parameters out of the optimizer",
            evidence={
                "optimizer": step.optimizer,
                "frozen": step.effect.frozen,
                "step_frames": [str(place) for place in event.site.chain],
            },
            step=number,
        )
