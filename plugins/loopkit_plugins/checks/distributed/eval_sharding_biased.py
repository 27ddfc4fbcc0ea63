"""Each rank evaluates on its own share of the data, and the shares are never put together."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Finding, Replicas, Run, Severity, Shard, hookimpl


class EvalShardingBiased:
    """Each rank evaluates on its own share of the data, and what it found stays there.

    What it looks for
        Several evaluations on a loader with a `DistributedSampler` in a run whose program never calls a collective
        itself after the first of them began: no sum, no gather. Where it does, only that the sampler gives some
        samples twice (info).

    Why that hurts
        What rank 0 prints, and what picks the best checkpoint, is the metric of one share of the data: noisier than
        it looks, and another one on each rank, so that ranks may disagree on when to stop. Where shares are put
        together, samples that were given twice to make shares equal count twice.

    A loop that has it
        sampler = DistributedSampler(validation, shuffle=False)
        for x, y in DataLoader(validation, sampler=sampler):
            right += (model(x).argmax(1) == y).sum()
        if rank == 0:
            print(right / len(sampler))

    The repair
        Sum what is counted over the ranks (`dist.all_reduce`, a metric that synchronises), and divide by the number
        of samples. Or evaluate on all of the data, on one rank.

    Left alone
        One evaluation, which may write predictions to files; loaders that are trained on too; all samples on one
        rank; any collective of the program's own since, such as Accelerate's `gather_for_metrics`, a metric object's
        or the loss's.

    What it costs
        A look at the loader when a pass over it begins.
    """

    rule = "eval-sharding-biased"
    severity = Severity.WARNING
    confidence = Confidence.FACT

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Report what the run's evaluations were made of."""
        for shard in run.instrument(Replicas).shards.evaluated():
            if not shard.sent and shard.passes > 1:
                yield self._apart(shard)
            elif shard.sent and shard.repeated:
                yield self._repeated(shard)

    def _apart(self, shard: Shard) -> Finding:
        share = -(-shard.samples // shard.ranks)
        return self._finding(
            shard,
            self.severity,
            seen=f"{shard.passes} evaluations on a loader with a DistributedSampler, {share} of {shard.samples} "
            "samples a rank, and no collective of the program's own in the run since the first",
            why=f"what a rank reports is the metric of its own share, 1 of {shard.ranks}: noisier than it looks, and "
            "another one on each rank",
            remedy="sum what is counted over the ranks (dist.all_reduce) before it is divided, or evaluate on all of "
            "the data on one rank",
        )

    def _repeated(self, shard: Shard) -> Finding:
        return self._finding(
            shard,
            Severity.INFO,
            seen=f"DistributedSampler gives {shard.repeated} of {shard.samples} samples twice, so that each of "
            f"{shard.ranks} ranks has equally many",
            why="an average over all that the ranks evaluated counts them twice",
            remedy="leave the repeated ones out once results are gathered, or evaluate on one rank",
        )

    def _finding(self, shard: Shard, severity: Severity, *, seen: str, why: str, remedy: str) -> Finding:
        return Finding(
            rule=self.rule,
            severity=severity,
            confidence=self.confidence,
            place=shard.site.place,
            places={"evaluation": shard.site.place},
            seen=seen,
            why=why,
            remedy=remedy,
            evidence={
                "evaluations": shard.passes,
                "samples": shard.samples,
                "repeated": shard.repeated,
                "shares": shard.ranks,
            },
            rank=shard.rank,
        )
