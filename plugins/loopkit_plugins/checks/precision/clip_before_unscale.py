"""Gradients are clipped while they are still multiplied by the loss scale."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import (
    ClipReading,
    Confidence,
    Event,
    Finding,
    Kind,
    Severity,
    StepReading,
    UnscaleReading,
    Update,
    hookimpl,
)

_A_READ = 1e5
"""A limit from here on is a way to ask for the norm, not to clip."""


class ClipBeforeUnscale:
    """With a GradScaler, gradients are clipped before `unscale_`, so the limit cuts scaled gradients.

    What it looks for
        A clip that cut gradients of an optimizer which the GradScaler divided by its scale only afterwards: in its
        own `step`, or where `unscale_` is called. The limit then holds for gradients times the scale.

    Why that hurts
        With a scale of 65536, a limit of 1 is one of 0.000015: nearly every step is cut to almost nothing, and how
        much depends on what the scale happens to be.

    A loop that has it
        scaler.scale(loss).backward()
        clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()

    The repair
        `scaler.unscale_(optimizer)` after the last backward and before the clip.

    Left alone
        A scaler that is disabled, or whose scale is 1; gradients that are unscaled by hand; a limit that was not
        reached; Accelerate's clip, which unscales; bfloat16, which needs no scaler. A clip by value, of which it is
        not known whether it cut anything, is a warning.

    What it costs
        Nothing of its own; norm and scale are read in updates that checks get to see.
    """

    rule = "clip-before-unscale"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    @hookimpl
    def update_finished(self, update: Update) -> Iterator[Finding]:
        """Judge each clip by the unscaling that came after it."""
        for at, (event, clip) in [(i, (each, each.reading)) for i, each in enumerate(update.events)]:
            if not isinstance(clip, ClipReading) or event.site is None or clip.limit >= _A_READ:
                continue
            if clip.norm is not None and not clip.bound:
                continue
            for number in [owner.number for owner in clip.owners if owner.fresh]:
                later = _unscaled_after(update, at, number)
                if later is not None:
                    yield self._finding(update, event, clip, *later)
                    break

    def _finding(
        self, update: Update, event: Event, clip: ClipReading, later: Event, unscaled: UnscaleReading
    ) -> Finding:
        assert event.site is not None
        scale = unscaled.scale or 1.0
        limit = clip.limit / scale
        cut = "" if clip.norm is None else f", from a norm of {clip.norm:.3g} (unscaled: {clip.norm / scale:.3g})"
        return Finding(
            rule=self.rule,
            severity=Severity.ERROR if clip.bound else Severity.WARNING,
            confidence=Confidence.PROOF if clip.bound else Confidence.FACT,
            place=event.site.place,
            places={"clip": event.site.place} | ({"unscale": later.site.place} if later.site else {}),
            subject=unscaled.optimizer,
            seen=f"gradients of {unscaled.optimizer} were clipped to {clip.limit:g}{cut} before the GradScaler "
            f"divided them by its scale of about {scale:g}",
            why=f"the real limit is {limit:.3g}, and changes with the scale: updates are cut to almost nothing",
            remedy=f"call scaler.unscale_(optimizer) after backward and before the clip at {event.site.place}",
            evidence={
                "optimizer": unscaled.optimizer,
                "limit": clip.limit,
                "norm": clip.norm,
                "scale": scale,
                "real_limit": limit,
                "clip_frames": [str(place) for place in event.site.chain],
            },
            step=update.number,
        )


def _unscaled_after(update: Update, at: int, number: int) -> tuple[Event, UnscaleReading] | None:
    """The unscaling of an optimizer's gradients that follows a clip, if none came before it."""
    for event in reversed(update.events[:at]):
        reading = event.reading
        if isinstance(reading, UnscaleReading) and reading.number == number:
            return None
        if event.kind in (Kind.STEP, Kind.SKIP) and event.subject == number:
            break
    found = None
    for event in update.events[at + 1 :]:
        reading = event.reading
        if isinstance(reading, UnscaleReading) and reading.number == number and found is None:
            found = event, reading
        if isinstance(reading, StepReading) and reading.number == number:
            if reading.written or found is None:
                return None
            break
    return found if found is not None and (found[1].scale or 1.0) > 1.0 else None
