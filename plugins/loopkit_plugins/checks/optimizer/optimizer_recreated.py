"""The optimizer is constructed anew again and again, and forgets each time what it had learned."""

from __future__ import annotations

from loopkit import Confidence, Finding, Ledger, Line, Run, Severity, hookimpl

_STEPS = 3  # times in turn that an optimizer is replaced after a single step
_LIVES = 2  # times after more than one


class OptimizerRecreated:
    """One line constructs optimizers over the same parameters in turn, faster than their momentum builds up.

    What it looks for
        Optimizers with momentum or moments, constructed at one place, with the same parameters and settings, each
        over the weights that the one before had left. A warning if each has made a single step; if they live shorter
        than their momentum looks back (10 steps for 0.9); or if each lives for one pass over the same loader.

    Why that hurts
        Momentum and the moments of Adam begin at zero each time, and so does a schedule that is constructed beside:
        Adam with a single step is a step by sign. What the settings promise is not what is run.

    A loop that has it
        for epoch in range(epochs):
            optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
            for x, y in loader:
                optimizer.zero_grad()
                criterion(model(x), y).backward()
                optimizer.step()

    The repair
        Construct optimizer and scheduler once, before the loop, and hand them to the function that trains an epoch.

    Left alone
        New parameters (folds, sweeps, latents, fresh copies); other settings or parameters (phases of training);
        weights written in between, as where each task or client starts from the same ones (Reptile, federated
        averaging, reset for a fold); optimizers that load the state of the one before; restarts after several epochs;
        another loader for each (tasks); optimizers that keep nothing (plain SGD) and LBFGS. Two sets of parameters
        that are trained in turn, each with optimizers of its own, are info.

    What it costs
        A few parameters are looked at where an optimizer is constructed. Where one goes on as the one before it did,
        a sample is kept after each step, and for the first four one value is read.
    """

    rule = "optimizer-recreated"
    severity = Severity.WARNING
    confidence = Confidence.FACT

    def __init__(self) -> None:
        self._told: set[Line] = set()

    @hookimpl
    def update_finished(self, run: Run) -> None:
        """Look at what each place has constructed."""
        lines = run.instrument(Ledger).lines
        if any(line.again for line in lines.values()):
            self._judge(run, list(lines.values()))

    @hookimpl(tryfirst=True)
    def run_finished(self, run: Run) -> None:
        """The same: what was constructed since the last update that was told."""
        self._judge(run, list(run.instrument(Ledger).lines.values()))

    def _judge(self, run: Run, lines: list[Line]) -> None:
        busy = sum(bool(line.again) for line in lines)
        for line in lines:
            how = _how(line)
            if how and line not in self._told:
                self._told.add(line)
                by_turns = busy > 1 and max(line.steps) > 1
                # Not as an answer: the count would be that of updates.
                run.report(self._finding(line, how, Severity.INFO if by_turns else self.severity))

    def _finding(self, line: Line, how: str, severity: Severity) -> Finding:
        least, most = min(line.steps), max(line.steps)
        steps = f"{most} step{'s' * (most > 1)}" if least == most else f"{least} to {most} steps"
        return Finding(
            rule=self.rule,
            severity=severity,
            confidence=self.confidence,
            place=line.site.place,
            places={"constructed": line.site.place},
            subject=line.label,
            seen=f"{line.label} was re-created here {line.again} times over the same parameters with the same "
            f"settings, each time after {steps}{how}",
            why="a new optimizer starts without the state of the old one: momentum and moments are lost, and a "
            "scheduler that is made beside it starts over",
            remedy="construct the optimizer and its scheduler once, before the loop",
            evidence={
                "optimizer": line.label,
                "recreated": line.again,
                "steps": list(line.steps),
                "memory": line.memory,
                "frames": [str(place) for place in line.site.chain],
            },
        )


def _how(line: Line) -> str:
    """Why this is no restart by design, in words; "" where it may be one."""
    if line.memory <= 1 or line.again < 3 * line.otherwise or line.again < _LIVES or not line.verified:
        return ""
    if max(line.steps) == 1:
        return ": its state is never used" if line.again >= _STEPS else ""
    if max(line.steps) < line.memory:
        return f", fewer than the {line.memory:.0f} that its momentum looks back"
    if all(line.epochs):
        return ", one pass over the training loader"
    return ""
