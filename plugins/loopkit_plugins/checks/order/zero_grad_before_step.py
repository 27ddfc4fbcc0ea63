"""Gradients are wiped between the backward that made them and the step that should use them."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Event, Finding, Habit, Severity, StepReading, Update, Wipe, hookimpl


class ZeroGradBeforeStep:
    """Gradients are cleared after backward and before the step that should have used them.

    What it looks for
        An executed step whose optimizer had received gradients since its last step, all of which were cleared before
        it. And inside an accumulation window: all micro-batches' gradients but the last one's, made by the same call
        on other batches, were cleared unused, in at least three of four updates.

    Why that hurts
        The step sees no gradient and does nothing; or, in a window, all but the last micro-batch are computed and
        thrown away, and the effective batch is a fraction of what was meant.

    A loop that has it
        loss.backward()
        optimizer.zero_grad()
        optimizer.step()

    The repair
        Clear before backward or after the step. With accumulation clear only where you step.

    Left alone
        A bad batch that is skipped with `zero_grad(); continue`; throw-away backwards (memory warm-up, gradient
        probes); clears of what another player's loss left behind (GANs); steps that a GradScaler skipped; closures;
        weights moved between the backwards (SAM) and inputs that take a gradient (attacks); gradients that are
        collected or written by hand (PCGrad, per-sample clipping); optimizers that are not torch's own.

    What it costs
        Nothing beyond the ledger. Where gradients were wiped, a value is read, ever more rarely: writes through
        `.data` leave no trace.
    """

    rule = "zero-grad-before-step"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._habit = Habit()

    @hookimpl
    def update_finished(self, update: Update) -> Iterator[Finding]:
        """Judge each step of the update by what was wiped since the step before it."""
        for event, step in update.steps():
            if step.closure or step.inside_backward or step.wraps_a_step or step.written or event.site is None:
                continue
            wipes = [wipe for wipe in step.wipes if not wipe.claimed and not wipe.in_closure]
            if not wipes or not step.confirmed:
                continue
            if not step.fresh and not step.mixed:
                last = wipes[-1]
                if not last.forward_since and not step.idle:
                    yield self._all(event, step, last, update.number)
            elif step.stock and (lost := _same_call_other_batch(step, wipes)):
                # One skipped batch looks the same as one lost of two: that takes longer to tell.
                at_least = 8 if len(lost) == 1 else 2
                key = (step.number, event.site.number)
                if self._habit.is_one(key, update.signature, update.seen, step.steps, at_least=at_least):
                    yield self._window(event, step, lost, update.number)

    def _all(self, event: Event, step: StepReading, wipe: Wipe, number: int) -> Finding:
        assert event.site is not None
        place = wipe.cleared.place if wipe.cleared else event.site.place
        made = wipe.backward
        how = f"at {wipe.cleared.place}" if wipe.cleared else "by hand"
        source = f"the backward at {made.place}" if made else "backward"
        places = {"step": event.site.place, "cleared": place}
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=place,
            places=places | ({"backward": made.place} if made else {}),
            subject=step.optimizer,
            seen=f"gradients that {source} gave {wipe.parameters} of {step.parameters} parameters of "
            f"{step.optimizer} were cleared {how} before the step at {event.site.place}, which found none",
            why="the step has nothing to use, so these parameters are not trained",
            remedy="move optimizer.zero_grad() before loss.backward(), or after optimizer.step()",
            evidence=_evidence(step, event, wipe),
            step=number,
        )

    def _window(self, event: Event, step: StepReading, lost: list[Wipe], number: int) -> Finding:
        assert event.site is not None
        wipe = lost[0]
        place = wipe.cleared.place if wipe.cleared else event.site.place
        made = wipe.backward.place if wipe.backward else event.site.place
        kept = step.contributions
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=place,
            places={"step": event.site.place, "cleared": place, "backward": made},
            subject=step.optimizer,
            seen=f"of {len(lost) + kept} backwards at {made} before the step at {event.site.place}, the gradients of "
            f"{len(lost)} were cleared unused; the step used {kept}",
            why=f"the effective batch is {kept} of {len(lost) + kept} micro-batches; the rest is computed and thrown "
            "away",
            remedy="call optimizer.zero_grad() only where the optimizer steps, once for each accumulation window",
            evidence=_evidence(step, event, wipe) | {"wiped_backwards": len(lost), "kept_backwards": kept},
            step=number,
        )


def _same_call_other_batch(step: StepReading, wipes: list[Wipe]) -> list[Wipe]:
    """The wipes that no purpose explains: by the same call as the one kept, on other data that takes no gradient."""
    if step.contributions != 1:
        return []
    return [
        wipe
        for wipe in wipes
        if wipe.backward is not None
        and wipe.backward in step.made_by
        and wipe.inputs >= 0
        and wipe.inputs not in step.inputs
        and (wipe.batch not in step.batches or wipe.batch == 0)
    ]


def _evidence(step: StepReading, event: Event, wipe: Wipe) -> dict[str, object]:
    return {
        "optimizer": step.optimizer,
        "parameters": step.parameters,
        "wiped": wipe.parameters,
        "backward_frames": [str(place) for place in wipe.backward.chain] if wipe.backward else [],
        "clear_frames": [str(place) for place in wipe.cleared.chain] if wipe.cleared else [],
        "step_frames": [str(place) for place in event.site.chain] if event.site else [],
    }
