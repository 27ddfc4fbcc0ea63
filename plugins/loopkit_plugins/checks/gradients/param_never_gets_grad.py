"""Trainable parameters of an optimizer that no gradient has reached in the whole run."""

from __future__ import annotations

from loopkit import Confidence, Event, Finding, Ledger, Missed, Run, Severity, Update, hookimpl

_UPDATES = 15
_STEPS = 32
Suspect = tuple[Event, str, Missed, int]


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
        self._suspects: dict[int, dict[str, Suspect]] = {}

    @hookimpl
    def update_finished(self, update: Update) -> None:
        """Keep what the latest walk says of each optimizer."""
        fed = {step.number for _, step in update.steps() if step.fresh}
        for event, loss in update.losses():
            for reach in loss.reaches:
                if loss.walked and reach.number in fed and event.site is not None:
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
            groups: dict[tuple[str, bool], list[Suspect]] = {}
            for suspect in suspects.values():
                missed = suspect[2]
                if (owner, missed.name) in awaited:
                    parent = missed.name.rpartition(".")[0] or missed.name
                    groups.setdefault((parent, missed.called and missed.own), []).append(suspect)
            for (parent, used), group in groups.items():
                run.report(self._finding(parent, group, used))

    def _finding(self, parent: str, group: list[Suspect], used: bool) -> Finding:
        event, optimizer, missed, number = group[0]
        assert event.site is not None
        parameters, elements = (sum(getattr(each[2], name) for each in group) for name in ("parameters", "elements"))
        others = f" and {len(group) - 1} more modules of {parent}" if len(group) > 1 else ""
        called = "called in training, but the output does not reach the loss" if missed.called else "not called"
        return Finding(
            rule=self.rule,
            severity=self.severity if used else Severity.INFO,
            confidence=self.confidence,
            place=event.site.place,
            places={"backward": event.site.place},
            subject=missed.name,
            seen=f"no gradient reached the {parameters} trainable parameters ({elements:,} numbers) of {missed.name}"
            f"{others} in the whole run: in {optimizer}, and {called}",
            why="they are never updated: what they compute stays as it was at the start",
            remedy="use the output in the loss (look for detach(), no_grad() and overwritten losses), or freeze it "
            "with requires_grad_(False)",
            evidence={
                "modules": [each[2].name for each in group],
                "optimizer": optimizer,
                "parameters": parameters,
                "elements": elements,
                "called": missed.called,
                "backward_frames": [str(place) for place in event.site.chain],
            },
            step=number,
        )
