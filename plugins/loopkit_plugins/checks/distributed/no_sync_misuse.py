"""The backward that ends a window is under `no_sync`: ranks step on gradients of their own."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Finding, Lapse, Replicas, Run, Severity, StepReading, Update, hookimpl

_SETTLED = 64


class NoSyncMisuse:
    """DDP does not average the gradients of a step over the ranks, because the last forward ran under `no_sync()`.

    What it looks for
        A step of an optimizer on a `DistributedDataParallel` model, on gradients whose last forward and backward ran
        while the model was told not to synchronise: by `no_sync()`, or by `require_backward_grad_sync`.

    Why that hurts
        DDP decides at the forward whether the backward after it averages gradients. What comes under `no_sync()`
        stays on its rank until a later backward averages all of it. Where none does, each rank trains a model of its
        own, without an error, and the one that is saved has seen its own rank's data alone.

    A loop that has it
        for i, (x, y) in enumerate(loader):
            with model.no_sync():
                criterion(model(x), y).backward()
            if (i + 1) % 4 == 0:
                optimizer.step()
                optimizer.zero_grad()

    The repair
        Leave the forward and backward of the last micro-batch of each window outside of `no_sync()`.

    Left alone
        Windows whose last micro-batch is synchronised, by whatever means; a model that another optimizer steps; a
        forward that no backward follows; one rank; programs that themselves sent a tensor as large as a half of the
        model's largest parameter, which may average gradients or weights by hand. So it waits for 64 updates, or for
        the end of the run.

    What it costs
        A flag is read at the forwards of a DDP model, in the updates whose graphs are walked.
    """

    rule = "no-sync-misuse"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], tuple[Lapse, Finding]] = {}

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> Iterator[Finding]:
        """Note a step on gradients that were not averaged."""
        replicas = run.instrument(Replicas)
        for lapse, step in replicas.lapsed("unsynced", update):
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
        count = len(lapse.forwards)
        which = (
            "the last forward" if any(lapse.forwards) else "the forward" if count == 1 else f"all {count} forwards"
        )
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=step.made_by[-1].place,
            places={"backward": step.made_by[-1].place},
            subject=lapse.wrap.label,
            seen=f"{step.optimizer} stepped on gradients of {lapse.wrap.label} that were not averaged over the "
            f"{len(lapse.wrap.ranks)} ranks: {which} since the step before ran under no_sync()",
            why="DDP decides at forward whether backward averages: each rank now trains a model of its own, and the "
            "one that is saved has seen its own rank's data alone",
            remedy="leave the forward and backward of the last micro-batch before the step outside of no_sync()",
            evidence={
                "optimizer": step.optimizer,
                "forwards": count,
                "synchronised": sum(lapse.forwards),
                "process_group": list(lapse.wrap.ranks),
            },
            step=lapse.step,
            rank=lapse.wrap.rank,
        )
