"""The loss is made by a forward that did not go through the DDP wrapper: gradients are never averaged."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Finding, Lapse, Replicas, Run, Severity, StepReading, Update, hookimpl

_SETTLED = 64


class DdpForwardBypassed:
    """The loss is made by `model.module(…)` or a method of it, past the DDP wrapper: gradients stay on their rank.

    What it looks for
        A step on the parameters of a `DistributedDataParallel` model, on gradients made since the step before, in
        which the model inside, or a part of it, was called with gradients on, and the wrapper never was.

    Why that hurts
        The wrapper's own forward is what makes it average the gradients of the next backward. Past it nothing fails
        and the loss falls, but each rank trains a model of its own on its share of the data; the one that is saved
        has not seen the rest.

    A loop that has it
        model = DistributedDataParallel(net)
        for x, y in loader:
            loss = model.module.training_loss(x, y)
            loss.backward()
            optimizer.step()

    The repair
        Call the wrapper. Where the loss is made by another method, let `forward` call that method.

    Left alone
        Calls past the wrapper under `no_grad()` (generation, evaluation) or beside a forward of the wrapper; wrappers
        that are called inside another module, where calls are not heard; a model that another optimizer steps; one
        rank; programs that themselves sent a tensor as large as a half of the model's largest parameter, which may
        average gradients or weights by hand. So it waits for 64 updates, or for the end of the run.

    What it costs
        A look at which modules are called, in the updates whose graphs are walked and where there is a DDP model.
    """

    rule = "ddp-forward-bypassed"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], tuple[Lapse, Finding]] = {}

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> Iterator[Finding]:
        """Note a step on gradients of forwards past the wrapper."""
        replicas = run.instrument(Replicas)
        for lapse, step in replicas.lapsed("bypassed", update):
            if step.made_by and not step.closure:
                self._seen.setdefault((lapse.wrap.number, lapse.owner), (lapse, self._finding(lapse, step)))
        if self._seen and update.updates >= _SETTLED:
            yield from self._settled(run)

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Report what is still to be reported."""
        return self._settled(run)

    def _settled(self, run: Run) -> Iterator[Finding]:
        seen, self._seen = self._seen, {}
        for lapse, finding in seen.values():
            if run.instrument(Replicas).by_hand(lapse.wrap):
                run.could_not_check(self.rule, "the program sends large tensors to other ranks itself")
            else:
                yield finding

    def _finding(self, lapse: Lapse, step: StepReading) -> Finding:
        backward = step.made_by[-1].place
        wrapped = {} if lapse.wrap.site is None else {"wrapped": lapse.wrap.site.place}
        inner = "" if lapse.called == lapse.wrap.label else f" (its {lapse.called})"
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=lapse.place or backward,
            places={"backward": backward} | wrapped,
            subject=lapse.wrap.label,
            seen=f"{step.optimizer} stepped on gradients of {lapse.wrap.label} that were not averaged over the "
            f"{len(lapse.wrap.ranks)} ranks: the model inside the DDP wrapper was called{inner}, and the wrapper not",
            why="only the wrapper's own forward makes backward average: each rank now trains a model of its own, and "
            "the one that is saved has seen its own rank's data alone",
            remedy="call the DDP model, not its .module; let forward call the method that makes the loss",
            evidence={
                "optimizer": step.optimizer,
                "called": lapse.called,
                "calls": len(lapse.forwards),
                "process_group": list(lapse.wrap.ranks),
            },
            step=lapse.step,
            rank=lapse.wrap.rank,
        )
