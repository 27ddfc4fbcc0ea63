"""Gradients that a step has used are still there when the next backward adds to them."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Finding, Severity, Update, hookimpl


class MissingZeroGrad:
    """Gradients are never cleared, so every update is the sum of all batches so far.

    What it looks for
        At an optimizer's step: parameters whose `.grad` holds gradients that an earlier step of the same optimizer
        had already used, and new ones that backward added on top, with no clear in between.

    Why that hurts
        The step follows the sum of all past gradients instead of this batch's. It looks like a learning rate that
        is too high; with a small one the run even converges, to something worse.

    A loop that has it
        for x, y in loader:
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()

    The repair
        Call `optimizer.zero_grad()` once an update: before `loss.backward()` or after `optimizer.step()`.

    Left alone
        Accumulation (no step in between); several losses before one step; several optimizers, each judged by its
        own steps; any way of clearing: `model.zero_grad()`, `p.grad = None`, `p.grad.zero_()`; gradients scaled or
        set by hand after the step, a carry-over that is meant; LBFGS and SAM, which clear inside their closure or
        first step; steps that a GradScaler skipped; optimizers that step inside backward.

    What it costs
        Nothing beyond the ledger: one look-up of the update's signature. A clear through `.grad.data` leaves no
        trace, so before used gradients are called stale a value is read: ever more rarely, and only where needed.
    """

    rule = "missing-zero-grad"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    @hookimpl
    def update_finished(self, update: Update) -> Iterator[Finding]:
        """Judge each step of the update by what the ledger says of the gradients it used."""
        for event, step in update.steps():
            if not step.mixed or step.inside_backward or step.wraps_a_step or event.site is None:
                continue
            made = step.made_by[0] if step.made_by else event.site
            used = step.used_by or event.site
            yield Finding(
                rule=self.rule,
                severity=self.severity,
                confidence=self.confidence,
                place=made.place,
                places={"backward": made.place, "step that had used them": used.place},
                subject=step.optimizer,
                seen=f"backward added to the gradients of {step.mixed} of {step.parameters} parameters of "
                f"{step.optimizer} that the step at {used.place} had already used",
                why="each update is the sum of all batches so far, not of this one",
                remedy="call optimizer.zero_grad() after optimizer.step(), or before loss.backward()",
                evidence={
                    "optimizer": step.optimizer,
                    "parameters": step.parameters,
                    "mixed": step.mixed,
                    "backward_frames": [str(place) for place in made.chain],
                    "step_frames": [str(place) for place in event.site.chain],
                    "framework": str(made.framework) if made.framework else None,
                },
                step=update.number,
            )
