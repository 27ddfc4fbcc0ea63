"""Trainable parameters of an optimizer that no gradient has reached in the whole run."""

from __future__ import annotations

from loopkit import Confidence, Event, Finding, Ledger, Missed, Run, Severity, Update, hookimpl

_UPDATES = 15
_STEPS = 32


class ParamNeverGetsGrad:
    """A module is in the optimizer and trainable, and no loss of the run ever reached it.

    What it looks for
        At the end of a run of 32 steps and more: modules that never had a gradient at a step, while the rest of
        their optimizer's parameters did. A warning if the module was called in a training forward, by a class of the
        user's own: its output was then left out of the loss, or cut off by `detach()`, `.item()` or `no_grad()`.
        Else info.

    Why that hurts
        The module stays as it was made. If what it computes is used later, it is noise.

    A loop that has it
        for x, y, box in loader:
            logits, where = detector(x)
            loss = cross_entropy(logits, y)
            loss =+ smooth_l1_loss(where, box)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    The repair
        Use the module's output in the loss, or take the module out, or freeze it with `requires_grad_(False)`.

    Left alone
        Frozen parameters; gradients that are 0 (LoRA, zero-initialised branches): what counts is that one arrives;
        embeddings, of which any row is enough; tasks and players that take turns, and heads that are trained later:
        one gradient in the run is enough; weights updated by hand or by copying. Modules never called (spare heads,
        experts) and parts of installed models (unused poolers) are info.

    What it costs
        Nothing while every trainable parameter has had a gradient. Else names are made in those updates whose graph
        is walked, a few numbers are read from the device, and after each backward it is seen whether they have one.
    """

    rule = "param-never-gets-grad"
    severity = Severity.WARNING
    confidence = Confidence.FACT

    def __init__(self) -> None:
        self._suspects: dict[int, dict[str, tuple[Event, str, Missed, int]]] = {}

    @hookimpl
    def update_finished(self, update: Update) -> None:
        """Keep what the latest walk says of each optimizer."""
        fed = {step.number for _, step in update.steps() if step.fresh}
        for event, loss in update.losses():
            for reach in loss.reaches:
                if loss.walked and reach.number in fed:
                    self._suspects[reach.number] = {
                        each.name: (event, reach.optimizer, each, update.number)
                        for each in reach.missed
                        if each.updates >= _UPDATES
                    }

    @hookimpl(tryfirst=True)  # before the sinks close
    def run_finished(self, run: Run) -> None:
        """Report what is left: no later phase of the training will explain it."""
        if run.steps < _STEPS:
            return
        awaited = run.instrument(Ledger).awaited
        for owner, suspects in self._suspects.items():
            for event, optimizer, missed, number in suspects.values():
                if event.site is not None and (owner, missed.name) in awaited:
                    run.report(self._finding(event, optimizer, missed, number))

    def _finding(self, event: Event, optimizer: str, missed: Missed, number: int) -> Finding:
        assert event.site is not None
        used = missed.called and missed.own
        how = (
            "it was called in training, and its output does not reach the loss"
            if missed.called
            else "it was not called"
        )
        return Finding(
            rule=self.rule,
            severity=self.severity if used else Severity.INFO,
            confidence=self.confidence,
            place=event.site.place,
            places={"backward": event.site.place},
            subject=missed.name,
            seen=f"no gradient reached the {missed.parameters} trainable parameters ({missed.elements:,} numbers) "
            f"of {missed.name}, which {optimizer} owns, in the whole run; {how}",
            why="they are never updated: the module stays as it was made",
            remedy="use the module's output in the loss (look for detach(), no_grad() and overwritten losses), or "
            "freeze it with requires_grad_(False)",
            evidence={
                "module": missed.name,
                "optimizer": optimizer,
                "parameters": missed.parameters,
                "elements": missed.elements,
                "called": missed.called,
                "backward_frames": [str(place) for place in event.site.chain],
            },
            step=number,
        )
