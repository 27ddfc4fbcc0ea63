"""Gradients are clipped at a moment when that cannot do what it is for."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import ClipReading, Confidence, Event, Finding, Kind, Severity, StepReading, Update, hookimpl

_A_READ = 1e5
"""A limit from here on is a way to ask for the norm, not to clip."""
_UNCUT = "the gradients that the step uses are not clipped, so the limit does not hold"
_Clip = tuple[int, Event, ClipReading]


class ClipMisplaced:
    """Gradients are clipped before backward, after the step, or piece by piece inside an accumulation window.

    What it looks for
        A step on new gradients of which no clip saw any, although its parameters are clipped in the same update: when
        there was nothing to clip, or when the step had already used it. And inside a window: gradients that were cut
        after one micro-batch and to which later ones, from the same backward, were added.

    Why that hurts
        Before backward and after the step nothing is clipped that a step uses. In a window the first micro-batches
        are cut again each time, so the last ones weigh more, and what the step uses is not the clipped sum.

    A loop that has it
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        clip_grad_norm_(model.parameters(), 1.0)
        loss.backward()
        optimizer.step()

    The repair
        Clip once an update: after the last backward and before the step.

    Left alone
        A limit that is never reached, as where the norm is only read; a clip that cut nothing; one clip for each of
        several losses; other players' clips; micro-batches that are cleared after each clip (per-sample clipping);
        clips inside a gradient hook or a closure; gradients written by hand; steps that a GradScaler skipped.

    What it costs
        About 1 µs a clip. The norm is kept and read only in updates that checks get to see.
    """

    rule = "clip-misplaced"
    severity = Severity.WARNING
    confidence = Confidence.FACT

    @hookimpl
    def update_finished(self, update: Update) -> Iterator[Finding]:
        """Judge each step of the update by the clips of its parameters."""
        if any(event.kind is Kind.SKIP for event in update.events):
            return
        clips = [(at, each, each.reading) for at, each in enumerate(update.events) if _is_clip(each)]
        for at, event in enumerate(update.events) if clips else ():
            step = event.reading
            if not isinstance(step, StepReading) or not (step.fresh or step.mixed) or event.site is None:
                continue
            if step.closure or step.inside_backward or step.wraps_a_step or step.written:
                continue
            mine = [
                (i, each, clip)
                for i, each, clip in clips
                if isinstance(clip, ClipReading) and any(one.number == step.number for one in clip.owners)
            ]
            found = self._of_nothing(update, at, step, mine) or self._of_parts(update, at, step, mine)
            if found is not None:
                yield found

    def _of_nothing(self, update: Update, at: int, step: StepReading, clips: list[_Clip]) -> Finding | None:
        """Every clip of these parameters missed what the step used."""
        if not clips or any(any(one.fresh for one in clip.owners) for _, _, clip in clips):
            return None
        for _, event, clip in clips:
            used = any(one.used for one in clip.owners)
            if used and clip.bound:
                how = f"after the step at {_place(update.events[at])} had used these gradients"
                return self._finding(update, at, step, event, clip, f"clipped {_amount(clip)} {how}")
            if not used and clip.limit < _A_READ:
                how = "when no gradient of these parameters was new: backward came later"
                return self._finding(update, at, step, event, clip, f"clipped {how}")
        return None

    def _of_parts(self, update: Update, at: int, step: StepReading, clips: list[_Clip]) -> Finding | None:
        """A clip cut what one micro-batch made, and another of the same kind was added before the step."""
        if step.contributions < 2 or step.wipes or len(step.made_by) != 1 or not _of_several_batches(step):
            return None
        backwards = [i for i, event in enumerate(update.events[:at]) if event.site is step.made_by[0]]
        cut = [
            (i, event, clip)
            for i, event, clip in clips
            if clip.bound and backwards and backwards[0] < i < backwards[-1]
        ]
        cleared = (
            any(event.kind is Kind.ZERO_GRAD for event in update.events[backwards[0] : at]) if backwards else True
        )
        if not cut or cleared:
            return None
        _, event, clip = cut[0]
        said = f"clipped {_amount(clip)} inside an accumulation window of {step.contributions} backwards"
        why = "what came before is cut once more each time, so the first micro-batches weigh less than the last"
        return self._finding(update, at, step, event, clip, said, why)

    def _finding(
        self,
        update: Update,
        at: int,
        step: StepReading,
        event: Event,
        clip: ClipReading,
        said: str,
        why: str = _UNCUT,
    ) -> Finding:
        assert event.site is not None
        stepped = update.events[at]
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=event.site.place,
            places={"clip": event.site.place} | ({"step": stepped.site.place} if stepped.site else {}),
            subject=step.optimizer,
            seen=f"gradients of {step.optimizer} were {said}",
            why=why,
            remedy="clip once, after the last backward of an update and before optimizer.step()",
            evidence={
                "optimizer": step.optimizer,
                "limit": clip.limit,
                "norm": clip.norm,
                "contributions": step.contributions,
                "clip_frames": [str(place) for place in event.site.chain],
                "step_frames": [str(place) for place in stepped.site.chain] if stepped.site else [],
            },
            step=update.number,
        )


def _is_clip(event: Event) -> bool:
    return isinstance(event.reading, ClipReading) and event.site is not None


def _of_several_batches(step: StepReading) -> bool:
    """Whether its gradients come from several batches; several losses of one may each have a clip of their own."""
    batches = set(step.batches)
    return len(batches) > 1 or (batches == {0} and len(set(step.inputs)) > 1)


def _place(event: Event) -> str:
    return str(event.site.place) if event.site else "?"


def _amount(clip: ClipReading) -> str:
    return f"from a norm of {clip.norm:.3g} to {clip.limit:g}"
