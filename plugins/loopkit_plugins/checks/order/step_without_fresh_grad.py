"""A step runs although no gradient has arrived since the last one."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Event, Finding, Severity, StepReading, Update, hookimpl


class StepWithoutFreshGrad:
    """A step runs with no gradient that is new since its last one: it does nothing, or the same thing again.

    What it looks for
        An executed step of an optimizer none of whose parameters received a gradient since its previous step. Either
        all of them are None, or the gradients are those the previous step had already used.

    Why that hurts
        Without gradients torch's optimizers skip every parameter: nothing is learned. With used ones the same update
        is applied twice. Both follow from a wrong indentation, a step before the backward, or a detached loss.

    A loop that has it
        for x, y in loader:
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            optimizer.step()
            loss.backward()

    The repair
        Call `optimizer.step()` once after each backward whose gradients it should use.

    Left alone
        A step that a wrapper or GradScaler left out; a step before any forward (the idiom that quiets the scheduler's
        warning) unless it comes again; steps with a closure; a rate of 0 or frozen parameters only; gradients
        written by hand; optimizers that step inside backward; one of several optimizers that step on one backward
        which did not reach it; optimizers that are not torch's own and may work without gradients.

    What it costs
        Nothing beyond the ledger.
    """

    rule = "step-without-fresh-grad"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    @hookimpl
    def update_finished(self, update: Update) -> Iterator[Finding]:
        """Judge each step of the update that nothing fresh reached."""
        steps = list(update.steps())
        fed = any(step.fresh or step.mixed for _, step in steps)
        for event, step in steps:
            if step.fresh or step.mixed or step.written or step.closure or step.inside_backward or step.wraps_a_step:
                continue
            if step.idle or not step.parameters or event.site is None or wiped_just_before(step):
                continue
            if step.reused:
                yield self._reused(event, step, update.number)
            elif step.stock and not fed and (step.forward_seen or not step.first):
                yield self._without(event, step, update.number)

    def _without(self, event: Event, step: StepReading, number: int) -> Finding:
        assert event.site is not None
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=event.site.place,
            places={"step": event.site.place},
            subject=step.optimizer,
            seen=f"{step.optimizer} stepped with no gradient on any of its {step.parameters} parameters: no backward "
            "reached them since its last step",
            why="a step without gradients changes nothing, so these parameters are not trained",
            remedy="call loss.backward() before optimizer.step(), and check that the loss is not detached from them",
            evidence=_evidence(event, step),
            step=number,
        )

    def _reused(self, event: Event, step: StepReading, number: int) -> Finding:
        assert event.site is not None
        used = step.used_by or event.site
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=event.site.place,
            places={"step": event.site.place, "step that had used them": used.place},
            subject=step.optimizer,
            seen=f"{step.optimizer} stepped on gradients of {step.reused} of {step.parameters} parameters that its "
            f"step at {used.place} had already used; no backward came in between",
            why="the same gradient is applied twice",
            remedy="call optimizer.step() once for each backward, and optimizer.zero_grad() after it",
            evidence=_evidence(event, step),
            step=number,
        )


def wiped_just_before(step: StepReading) -> bool:
    """Whether gradients were there and were cleared right before the step: another rule's finding."""
    return any(not wipe.claimed and not wipe.forward_since for wipe in step.wipes)


def _evidence(event: Event, step: StepReading) -> dict[str, object]:
    return {
        "optimizer": step.optimizer,
        "parameters": step.parameters,
        "without_gradient": step.without,
        "reused": step.reused,
        "step_frames": [str(place) for place in event.site.chain] if event.site else [],
        "framework": str(event.site.framework) if event.site and event.site.framework else None,
    }
