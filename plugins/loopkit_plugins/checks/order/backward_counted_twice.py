"""The same loss is sent backward twice into the same gradients."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Event, Finding, Kind, LossReading, Severity, StepReading, Update, hookimpl


class BackwardCountedTwice:
    """One loss is sent backward twice before one step, so its gradient counts twice.

    What it looks for
        A backward of a loss that an earlier backward of the same update had sent, or of a sum that contains it, with
        no clear in between and none before the step that uses both.

    Why that hurts
        The gradients of that loss are doubled: the learning rate is twice what is written, a term of a sum weighs
        twice what it should, and clipping cuts earlier.

    A loop that has it
        aux = criterion(side, y)
        aux.backward(retain_graph=True)
        loss = criterion(out, y) + aux
        loss.backward()
        optimizer.step()

    The repair
        Send each loss backward once: add up what belongs together and call `backward()` on the sum.

    Left alone
        Two losses that share a forward, and not each other; the samples of one loss, one by one; a first backward
        with `create_graph` (penalties on gradients, second-order methods), with `inputs=` or with a gradient of its
        own; terms that are subtracted; a clear between the two or after them, as where gradients are only measured.

    What it costs
        A few nodes of the loss graph, in the updates whose graphs are walked.
    """

    rule = "backward-counted-twice"
    severity = Severity.WARNING
    confidence = Confidence.FACT

    @hookimpl
    def update_finished(self, update: Update) -> Iterator[Finding]:
        """Judge each backward that repeats one before it."""
        backwards = [at for at, event in enumerate(update.events) if event.kind is Kind.BACKWARD]
        for at in backwards:
            event = update.events[at]
            reading = event.reading
            if not isinstance(reading, LossReading) or reading.repeats is None or event.site is None:
                continue
            if reading.selective or reading.repeats >= len(backwards):
                continue
            first = backwards[reading.repeats]
            step = _step_that_uses_both(update, first, at)
            if step is not None:
                yield self._finding(update, update.events[first], event, step)

    def _finding(self, update: Update, first: Event, second: Event, step: tuple[Event, StepReading]) -> Finding:
        assert first.site is not None
        assert second.site is not None
        event, reading = step
        assert event.site is not None
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=second.site.place,
            places={"first": first.site.place, "second": second.site.place, "step": event.site.place},
            subject=reading.optimizer,
            seen=f"the loss that was sent backward at {first.site.place} was sent backward again, and the step of "
            f"{reading.optimizer} at {event.site.place} used the sum of both: {reading.contributions} contributions "
            "since the last clear",
            why="the gradient of that loss counts twice",
            remedy="call backward() once for each loss: on the sum, or on each term by itself",
            evidence={
                "optimizer": reading.optimizer,
                "contributions": reading.contributions,
                "first_frames": [str(place) for place in first.site.chain],
                "second_frames": [str(place) for place in second.site.chain],
                "step_frames": [str(place) for place in event.site.chain],
            },
            step=update.number,
        )


def _step_that_uses_both(update: Update, first: int, second: int) -> tuple[Event, StepReading] | None:
    """The step after the second backward that found the contributions of both."""
    between = {event.kind for event in update.events[first:second]}
    if between & {Kind.ZERO_GRAD, Kind.STEP, Kind.SKIP}:
        return None
    sites = {update.events[first].site, update.events[second].site}
    for event in update.events[second:]:
        if event.kind is Kind.ZERO_GRAD:
            return None
        step = event.reading
        if not isinstance(step, StepReading) or event.site is None:
            continue
        if step.closure or step.inside_backward or step.wraps_a_step or step.written or step.wipes:
            continue
        if step.contributions >= 2 and sites <= set(step.made_by):
            return event, step
    return None
