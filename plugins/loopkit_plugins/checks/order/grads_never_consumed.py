"""Backward runs again and again, and no optimizer ever steps."""

from __future__ import annotations

from loopkit import Confidence, Finding, Kind, LoaderReading, Pending, Run, Severity, Update, hookimpl

_WITHOUT_LOADER = 32
"""Backwards after which a run without a known loader has seen more than one accumulation window."""
_LEAST = 8


class GradsNeverConsumed:
    """Gradients are made for an optimizer's parameters all through the run, and it never steps.

    What it looks for
        At the end of a run in which no optimizer stepped: backwards, at least eight and more than one pass over the
        loader, that gave gradients to an optimizer's parameters, whose values kept the same bits.

    Why that hurts
        Nothing is learned: the step is missing, sits in a branch that is never taken, or belongs to an object
        that is not the optimizer of these parameters.

    A loop that has it
        for epoch in range(epochs):
            for x, y in loader:
                optimizer.zero_grad()
                criterion(model(x), y).backward()

    The repair
        Call `optimizer.step()` after backward, on the optimizer that owns the parameters.

    Left alone
        Runs in which any optimizer stepped, however late, or a GradScaler skipped a step; an accumulation window of
        up to an epoch; weights that somebody moves without an optimizer (`p.data.add_()`, functional optimizers);
        gradients wanted for inputs (attacks, saliency, style transfer); runs that made no optimizer.

    What it costs
        After the 2nd, 4th, 8th … backward, and only until the first step of the run, samples of 16 parameters of each
        optimizer. They are compared on the device; one value of each is read when the run ends without a step.
    """

    rule = "grads-never-consumed"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    @hookimpl(tryfirst=True)
    def run_finished(self, run: Run) -> None:
        """Judge what was left open by a run that never stepped, before sinks sum it up."""
        update = run.open_update()
        if update is None or run.steps or any(event.kind in (Kind.STEP, Kind.SKIP) for event in update.events):
            return
        for pending in update.pending:
            if pending.takes_gradient or not pending.unmoved or not pending.fed or pending.backwards < _LEAST:
                continue
            passes = _passes(update, pending)
            if passes is not None:
                run.report(self._finding(pending, passes))

    def _finding(self, pending: Pending, passes: str) -> Finding:
        assert pending.site is not None
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=pending.site.place,
            places={"backward": pending.site.place},
            subject=pending.optimizer,
            seen=f"{pending.backwards} backwards{passes} made gradients for {pending.fed} of {pending.parameters} "
            f"parameters of {pending.optimizer}, and no optimizer stepped; sampled values of these parameters "
            "did not change by a bit",
            why="the gradients are never used, so nothing is learned",
            remedy=f"call step() of {pending.optimizer} after backward, and check that the line is reached",
            evidence={
                "optimizer": pending.optimizer,
                "parameters": pending.parameters,
                "fed": pending.fed,
                "backwards": pending.backwards,
                "backward_frames": [str(place) for place in pending.site.chain],
            },
        )


def _passes(update: Update, pending: Pending) -> str | None:
    """How the backwards are more than one accumulation window, in words; None where they may be one."""
    began: dict[int, int] = {}
    lengths: dict[int, int | None] = {}
    last: int | None = None
    for event in update.events:
        if isinstance(event.reading, LoaderReading):
            last = event.reading.number
            lengths[last] = event.reading.length
        elif event.kind is Kind.BACKWARD and last is not None:
            began[last] = began.get(last, 0) + 1
            last = None  # an epoch counts once, and only one that trains
    if not lengths:
        return "" if pending.backwards >= _WITHOUT_LOADER else None
    if any(count > 1 for count in began.values()):
        return f" in {max(began.values())} epochs"
    length = max((lengths[number] or 0 for number in began), default=0)
    return f" in more than one pass over {length} batches" if 0 < length < pending.backwards else None
