"""The loss is scaled and the step is not, or the other way round."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import (
    Confidence,
    Event,
    Finding,
    Kind,
    LossReading,
    Run,
    Scales,
    Severity,
    StepReading,
    UnscaleReading,
    Update,
    hookimpl,
)


class ScalerBypassed:
    """A GradScaler scales the loss, and the optimizer steps without it; or it divides gradients it had not scaled.

    What it looks for
        A step of an optimizer all of whose gradients come from losses that a GradScaler has multiplied by its scale,
        while nothing has divided them since. Or a step that a GradScaler executed, after dividing gradients that come
        from losses it had not multiplied.

    Why that hurts
        The update is too large by the scale, 65536 at first: SGD leaves for nowhere at once, and Adam, which does not
        mind the size, loses its eps, its clipping and the test for overflow. Or it is too small by as much.

    A loop that has it
        scaler.scale(loss).backward()
        optimizer.step()

    The repair
        `scaler.scale(loss).backward()`, `scaler.step(optimizer)` and `scaler.update()`, for every optimizer.

    Left alone
        A scaler that is disabled, or whose scale is 1; `unscale_` and then a step of one's own; gradients written by
        hand; optimizers whose loss is not scaled, beside others whose loss is; scalers of a class of their own.

    What it costs
        Nothing of its own: the graph of the loss is read in the first updates and ever more rarely.
    """

    rule = "scaler-bypassed"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> Iterator[Finding]:
        """Judge each step by the losses its gradients come from."""
        for at, event in enumerate(update.events):
            step = event.reading
            if not isinstance(step, StepReading) or event.site is None or step.written or step.touched:
                continue
            if not (step.fresh or step.mixed) or step.closure or step.inside_backward or step.wraps_a_step:
                continue
            sent = [each for each in update.events[:at] if each.kind is Kind.BACKWARD and each.site in step.made_by]
            losses = [each.reading for each in sent if isinstance(each.reading, LossReading)]
            if not losses or len(losses) < len(sent):
                continue
            unscaled = _unscaled(update, at, step.number)
            if not step.scaled and unscaled is None and all(loss.scaled for loss in losses):
                scales = run.instrument(Scales)
                scale = max(scales.now(), default=0.0)
                if scales.plain and scale > 1:
                    yield self._finding(update, event, step, sent[-1], scale, divided=False)
            elif step.scaled and unscaled is not None and unscaled.plain and all(map(_is_unscaled, losses)):
                scale = unscaled.scale or 0.0
                yield from [self._finding(update, event, step, sent[-1], scale, divided=True)] if scale > 1 else []

    def _finding(
        self, update: Update, event: Event, step: StepReading, sent: Event, scale: float, *, divided: bool
    ) -> Finding:
        assert event.site is not None
        at = f" at {sent.site.place}" if sent.site else ""
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=event.site.place,
            places={"step": event.site.place} | ({"backward": sent.site.place} if sent.site else {}),
            subject=step.optimizer,
            seen=(
                f"the GradScaler divided the gradients of {step.optimizer} by its scale of about {scale:g}, though "
                f"the loss{at} was not multiplied by it"
                if divided
                else f"{step.optimizer} stepped by itself on gradients that are still multiplied by the GradScaler's "
                f"scale of about {scale:g}, which scaled the loss{at}"
            ),
            why=f"the gradients used are {scale:g} times too {'small' if divided else 'large'}"
            + ("" if divided else ", and nothing skips a step that overflowed"),
            remedy=(
                "send scaler.scale(loss) backward, or step this optimizer by itself"
                if divided
                else "call scaler.step(optimizer) and then scaler.update() instead of optimizer.step()"
            ),
            evidence={
                "optimizer": step.optimizer,
                "scale": scale,
                "loss_scaled": not divided,
                "step_scaled": divided,
                "step_frames": [str(place) for place in event.site.chain],
            },
            step=update.number,
        )


def _unscaled(update: Update, at: int, number: int) -> UnscaleReading | None:
    """The unscaling since the step before, by whatever call."""
    for event in reversed(update.events[:at]):
        reading = event.reading
        if isinstance(reading, UnscaleReading) and reading.number == number:
            return reading
        if event.kind in (Kind.STEP, Kind.SKIP) and event.subject == number:
            return None
    return None


def _is_unscaled(loss: LossReading) -> bool:
    """Whether nothing has made this loss larger: neither a scaler nor a constant."""
    if loss.scaled or not loss.walked or loss.opaque:
        return False
    return all(abs(loss.factor * term.factor) <= 1 for term in loss.terms) and bool(loss.terms)
