"""A step runs although no gradient has arrived since the last one."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Event, Finding, Habit, Kind, Severity, StepReading, Update, hookimpl


class StepWithoutFreshGrad:
    """A step runs with no gradient that is new since its last one: it does nothing, or the same thing again.

    What it looks for
        An executed step of an optimizer none of whose parameters received a gradient since its previous step. Either
        the gradients are those the previous step had already used, or there are none at all, in three of four of its
        steps although the model was run.

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
        A step that a wrapper or GradScaler left out; steps without a forward (the idiom that quiets the scheduler's
        warning, or plots a schedule); a batch now and then whose loss has no graph; steps with a closure; a rate of 0
        or frozen parameters only; gradients written by hand; optimizers that step inside backward; one of several
        optimizers, when another used that backward; optimizers that are not torch's own and may need no gradients;
        losses whose graph leads to no parameter, which `grad-path-cut` names.

    What it costs
        Nothing beyond the ledger. Gradients written through `.data` leave no trace, so before gradients are called
        used or zero, a value is read: ever more rarely, and only where they look it.
    """

    rule = "step-without-fresh-grad"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._habit = Habit()
        self._cut: set[int] = set()

    @hookimpl
    def update_finished(self, update: Update) -> Iterator[Finding]:
        """Judge each step of the update that nothing fresh reached."""
        steps = list(update.steps())
        cut = self._is_cut(update)
        fed = any(step.fresh or step.mixed for _, step in steps)
        for event, step in steps:
            if step.fresh or step.mixed or step.written or not step.parameters or event.site is None:
                continue
            if step.closure or step.inside_backward or step.wraps_a_step or step.idle:
                continue
            if not (step.stock and step.confirmed) or _wiped_just_before(step):
                continue
            if step.reused:
                yield self._reused(event, step, update.number)
            elif step.worked and not fed and not step.others_fed and not cut:
                key = (step.number, event.site.number)
                if self._habit.is_one(key, update.signature, update.seen, step.steps):
                    yield self._without(event, step, update.number)

    def _is_cut(self, update: Update) -> bool:
        """Whether all backwards came from lines whose loss leads nowhere: another rule's finding."""
        for event, loss in update.losses():
            if loss.walked and event.site is not None:
                (self._cut.add if loss.cut else self._cut.discard)(event.site.number)
        sites = {event.site.number for event in update.events if event.kind is Kind.BACKWARD and event.site}
        return bool(sites) and sites <= self._cut

    def _without(self, event: Event, step: StepReading, number: int) -> Finding:
        assert event.site is not None
        cleared = next((wipe.cleared for wipe in step.wipes if wipe.cleared and not wipe.claimed), None)
        since = f"they were cleared at {cleared.place}" if cleared else "its last step"
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=event.site.place,
            places={"step": event.site.place} | ({"cleared": cleared.place} if cleared else {}),
            subject=step.optimizer,
            seen=f"{step.optimizer} stepped with no gradient on any of its {step.parameters} parameters: no backward "
            f"reached them since {since}",
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


def _wiped_just_before(step: StepReading) -> bool:
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
