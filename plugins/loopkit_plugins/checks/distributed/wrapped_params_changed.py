"""Parameters were replaced, moved or unfrozen after the model was wrapped in DDP."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Finding, Lapse, Replicas, Run, Severity, StepReading, Update, hookimpl

_SETTLED = 64


class WrappedParamsChanged:
    """Parameters of a DDP model are trained that its reducer does not know: they were changed after the wrap.

    What it looks for
        A step that used gradients of parameters inside a `DistributedDataParallel` model which its reducer does not
        reduce: they were put in after the wrap, required no gradient then, or were converted since to another device
        or dtype, which keeps the parameter and loses the hook on it.

    Why that hurts
        The wrapper decides when it is made what it reduces. The gradients of all else stay on their rank: those
        parameters become different ones on each rank, without an error.

    A loop that has it
        model = DistributedDataParallel(net)
        for p in net.backbone.parameters():
            p.requires_grad = True
        optimizer = torch.optim.AdamW(net.parameters())

    The repair
        Change first, wrap last; wrap again after each change.

    Left alone
        Changes before the wrap, and those that another wrapper made later covers; conversions to the device and dtype
        that a parameter has; parameters that DDP was told to ignore, that no step trains, or that are sharded; one
        rank; programs that themselves sent a tensor as large as a half of the model's largest parameter, which may
        average gradients or weights by hand. So it waits for 64 updates, or for the end of the run.

    What it costs
        About 1 µs for each parameter of a DDP model, in the updates whose graphs are walked.
    """

    rule = "wrapped-params-changed"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._seen: dict[tuple[object, ...], tuple[Lapse, Finding]] = {}

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> Iterator[Finding]:
        """Note a step on gradients that no reducer reduces."""
        replicas = run.instrument(Replicas)
        for lapse, step in replicas.lapsed("uncovered", update):
            if step.made_by and not step.closure:
                reasons = frozenset(why for _, why in lapse.parameters)
                self._seen.setdefault((lapse.wrap.number, lapse.owner, reasons), (lapse, self._finding(lapse, step)))
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
        first, why = lapse.parameters[0]
        count = len(lapse.parameters)
        what = f"{first} was" if count == 1 else f"{count} parameters, {first} first, were"
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=wrapped.get("wrapped", backward),
            places={"backward": backward} | wrapped,
            subject=f"{lapse.wrap.label}: {why}",
            seen=f"{step.optimizer} stepped on gradients of {lapse.wrap.label} that were not averaged over the "
            f"{len(lapse.wrap.ranks)} ranks: {what} {why} after the model was wrapped",
            why="DDP decides when it is made which gradients it averages: these stay on their rank, and each rank "
            "trains other weights",
            remedy="change the model first and wrap it last; wrap it again after a change",
            evidence={
                "optimizer": step.optimizer,
                "parameters": [name for name, _ in lapse.parameters[:16]],
                "reasons": sorted({reason for _, reason in lapse.parameters}),
                "count": count,
                "process_group": list(lapse.wrap.ranks),
            },
            step=lapse.step,
            rank=lapse.wrap.rank,
        )
