"""The parameters whose gradients are clipped are not those that are trained."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import ClipReading, Confidence, Event, Finding, Severity, StepReading, Update, hookimpl

_A_READ = 1e5
"""A limit from here on is a way to ask for the norm, not to clip."""


class ClipCoversWrongParams:
    """Clipping is given parameters that no optimizer trains, or none at all, so the step's gradients stay uncut.

    What it looks for
        An update all of whose clips cover nothing of any optimizer: the set is empty (a generator that is used up, a
        filter that lets nothing pass), or its parameters belong to no optimizer and none of them has a gradient.

    Why that hurts
        Nothing is clipped. The loop looks protected against large gradients, and is not.

    A loop that has it
        optimizer = AdamW(policy.parameters())
        loss.backward()
        clip_grad_norm_(reference.parameters(), 1.0)
        optimizer.step()

    The repair
        Clip the parameters that the optimizer steps, as a list: `list(model.parameters())`.

    Left alone
        A clip of part of the parameters; several clips of which one covers what is stepped; parameters of an
        optimizer that does not step now; parameters of no optimizer that have gradients (master copies in another
        precision); a limit that is never reached, as where the norm is only read; gradients written by hand.

    What it costs
        About 1 µs a clip. The norm is kept and read only in updates that checks get to see.
    """

    rule = "clip-covers-wrong-params"
    severity = Severity.WARNING
    confidence = Confidence.FACT

    @hookimpl
    def update_finished(self, update: Update) -> Iterator[Finding]:
        """Judge an update in which something was clipped and something stepped."""
        clips = list(update.clips())
        if not clips or any(clip.owners or not _does_nothing(clip) for _, clip in clips):
            return
        steps = list(update.steps())
        if any(step.closure or step.inside_backward or step.wraps_a_step or step.written for _, step in steps):
            return
        event, clip = clips[-1]
        stepped = [(at, step) for at, step in steps if step.fresh]
        if stepped and event.site is not None:
            yield self._finding(event, clip, *stepped[0], update.number)

    def _finding(self, event: Event, clip: ClipReading, at: Event, step: StepReading, number: int) -> Finding:
        assert event.site is not None
        what = (
            f"{clip.given} parameters that belong to no optimizer and have no gradient" if clip.given else "nothing"
        )
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=event.site.place,
            places={"clip": event.site.place} | ({"step": at.site.place} if at.site else {}),
            subject=step.optimizer,
            seen=f"clipping was given {what}; the {step.parameters} parameters of {step.optimizer} were stepped "
            "unclipped",
            why=f"nothing is clipped: no gradient is ever held to the limit of {clip.limit:g}",
            remedy="pass the parameters that the optimizer steps, as a list: a generator can be used only once",
            evidence={
                "optimizer": step.optimizer,
                "parameters": step.parameters,
                "given": clip.given,
                "limit": clip.limit,
                "norm": clip.norm,
                "clip_frames": [str(place) for place in event.site.chain],
                "step_frames": [str(place) for place in at.site.chain] if at.site else [],
            },
            step=number,
        )


def _does_nothing(clip: ClipReading) -> bool:
    """Whether it was meant to clip and had nothing to clip."""
    return clip.limit < _A_READ and (clip.given == 0 or (clip.unowned > 0 and clip.norm == 0.0))
