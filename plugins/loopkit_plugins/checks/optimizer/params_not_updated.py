"""Steps are executed, and the weights keep the same bits."""

from __future__ import annotations

from loopkit import Confidence, Event, Finding, Run, Severity, StepReading, Update, hookimpl

_STEPS = 16
_AT_END = 4  # in a run that is shorter


class ParamsNotUpdated:
    """An optimizer steps with gradients and a rate that would move its parameters, and none of them moves by a bit.

    What it looks for
        Samples of up to four parameters of an optimizer that are, after 16 steps, the very bits they were before the
        first one, while at each step that was looked at their gradients times the rate would have changed them.

    Why that hurts
        Nothing is trained. The step computes an update and drops it: an own update rule that writes to a copy
        (`p = p - lr * g`, `p.data.add(...)` without the underscore), a kernel that fails silently, a step that is
        patched out.

    A loop that has it
        class Mine(Optimizer):
            @torch.no_grad()
            def step(self):
                for group in self.param_groups:
                    for p in group["params"]:
                        p = p - group["lr"] * p.grad

    The repair
        Change parameters in place (`p.add_(p.grad, alpha=-lr)`); with one of torch's own optimizers, try
        `foreach=False` and `fused=False`, contiguous parameters, and another version.

    Left alone
        Rates of 0 and warm-ups; gradients that are 0; updates so small that they are rounded away; steps that a
        GradScaler skipped; optimizers that move now and then (Lookahead, accumulation inside); weights that somebody
        else moves or restores; half precision; sharded parameters.

    What it costs
        In updates whose graph is walked, samples that are there anyway are compared on their device; one value is
        read for each optimizer, until it is seen to move, which is at its first step.
    """

    rule = "params-not-updated"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._suspects: dict[int, Finding] = {}

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> None:
        """Follow the optimizers whose samples have not moved."""
        for event, step in update.steps():
            effect = step.effect
            if effect is None or event.site is None:
                continue
            self._suspects.pop(step.number, None)
            if effect.unmoved < _AT_END or step.closure or step.inside_backward:
                continue
            found = self._finding(event, step, update.number)
            if effect.unmoved >= _STEPS:
                run.report(found)
            else:
                self._suspects[step.number] = found

    @hookimpl(tryfirst=True)
    def run_finished(self, run: Run) -> None:
        """A short run."""
        for found in self._suspects.values():
            run.report(found)

    def _finding(self, event: Event, step: StepReading, number: int) -> Finding:
        assert event.site is not None
        assert step.effect is not None
        places = {"step": event.site.place}
        if step.effect.made is not None:
            places["optimizer constructed"] = step.effect.made.place
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=event.site.place,
            places=places,
            subject=step.optimizer,
            seen=f"{step.optimizer} executed {step.effect.unmoved} steps, and sampled values of "
            f"{step.effect.sampled} of its parameters kept the same bits, though gradients and rate "
            "would have moved them",
            why="the step does not update the parameters, so nothing is learned",
            remedy="change parameters in place in an update rule of your own (add_, not add); with torch's own, try "
            "foreach=False and fused=False",
            evidence={
                "optimizer": step.optimizer,
                "steps": step.effect.unmoved,
                "sampled": step.effect.sampled,
                "rates": list(step.effect.rates),
                "step_frames": [str(place) for place in event.site.chain],
            },
            step=number,
        )
