"""All ranks train on the same batches: no more is learned than by one of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from loopkit import Confidence, Finding, Place, Replicas, Run, Severity, Shares, Update, hookimpl

_AT_LEAST = 3


class SameDataOnEveryRank:
    """All ranks of a DDP model are given the same batches.

    What it looks for
        Digests of what a `DistributedDataParallel` model is given, at the same steps on all ranks of its group
        that can be compared: the same on all of them at every one of three or more such steps, and not the same from
        step to step. Each rank writes its digests to the run's folder, and whoever reports compares them.

    Why that hurts
        The average of equal gradients is each of them. All ranks together learn what one would alone, and an epoch
        takes as long as on one device; schedules and rates made for the larger batch are wrong for this one.

    A loop that has it
        torch.manual_seed(0)
        loader = DataLoader(dataset, batch_size=32, shuffle=True)  # the same order on every rank
        model = DistributedDataParallel(net)
        for x, y in loader:
            loss = criterion(model(x), y)

    The repair
        `DataLoader(dataset, sampler=DistributedSampler(dataset))`, and `sampler.set_epoch(epoch)` before each epoch;
        for data that is made, a seed that depends on the rank.

    Left alone
        Ranks of other process groups (tensor and pipeline parallel ones share data on purpose); one batch again and
        again, as when a model is to overfit it; batches that differ once. Batches that come from no `DataLoader` are
        only told (info).

    What it costs
        A sum over a few thousand elements of the model's inputs, and one number read, in the updates whose graphs are
        walked and only for DDP models.
    """

    rule = "same-data-on-every-rank"
    severity = Severity.WARNING
    confidence = Confidence.FACT

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> None:
        """Tell what this process has."""
        replicas = run.instrument(Replicas)
        taken = replicas.digests.taken
        if not taken:
            return
        at = replicas.fed_at
        run.instrument(Shares).mine[self.rule] = [
            {
                "wrap": wrap.number,
                "label": wrap.label,
                "ranks": list(wrap.ranks),
                "rank": wrap.rank,
                "at": taken[wrap.number],
                "loop": at.place.to_dict() if at else None,
                "wrapped": wrap.site.place.to_dict() if wrap.site else None,
            }
            for wrap in replicas.wraps
            if wrap.number in taken
        ]

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Compare what all processes told, where they can be heard."""
        told: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for process in run.instrument(Shares).of_all(self.rule):
            for each in process:
                told.setdefault((each["wrap"], each["label"], *each["ranks"]), []).append(each)
        for replicas in told.values():
            if len({each["rank"] for each in replicas}) < 2:
                continue
            common = [at for at in replicas[0]["at"] if all(at in each["at"] for each in replicas)]
            digests = {replicas[0]["at"][at] for at in common}
            same = all(len({each["at"][at] for each in replicas}) == 1 for at in common)
            if same and len(common) >= _AT_LEAST and 2 * len(digests) > len(common):
                yield self._finding(replicas, common)

    def _finding(self, replicas: list[dict[str, Any]], common: list[str]) -> Finding:
        one = replicas[0]
        ranks = sorted(each["rank"] for each in replicas)
        names = f"{', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"
        where = {name: Place.from_dict(one[name]) for name in ("loop", "wrapped") if one[name]}
        return Finding(
            rule=self.rule,
            severity=self.severity if one["loop"] else Severity.INFO,
            confidence=self.confidence,
            place=where.get("loop", where.get("wrapped")),
            places=where,
            subject=one["label"],
            seen=f"ranks {names} gave {one['label']} the same batch at each of the {len(common)} steps compared",
            why="the average of equal gradients is each of them: all ranks together learn what one would alone",
            remedy="give the DataLoader a DistributedSampler; where batches are made, seed each rank differently",
            evidence={"ranks": ranks, "steps": [int(at.partition(":")[2]) for at in common]},
            step=int(common[-1].partition(":")[2]),
            rank=ranks[0],
        )
