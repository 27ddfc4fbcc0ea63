"""Ranks that are to hold the same weights hold different ones."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

from loopkit import Confidence, Finding, Place, Replicas, Run, Severity, Shares, Update, hookimpl

_EXPLAINED_BY = frozenset(["no-sync-misuse", "ddp-forward-bypassed", "wrapped-params-changed"])
_HARM = 1e-4
"""The relative difference of norms below which it may be another machine's rounding."""


class ReplicasDiverged:
    """The replicas of a DDP model have different weights.

    What it looks for
        Sums of the bits of a `DistributedDataParallel` model's parameters, taken right after the same step on several
        ranks, that differ, at the last step at which they can be compared. Each rank writes its sums to the run's
        folder, and whoever reports compares them: no rank waits for another. Where `load_state_dict` was called after
        the wrap on some of the ranks only, that is named.

    Why that hurts
        DDP gives all ranks the same weights once, when it wraps, and averages gradients from then on. It never
        compares weights: ranks that started differently stay different, and the average of their gradients is the
        gradient of neither. What is saved is one rank's.

    A loop that has it
        model = DistributedDataParallel(net)
        if rank == 0:
            model.module.load_state_dict(torch.load("pretrained.pt"))

    The repair
        Load before the wrap, or on every rank.

    Left alone
        Buffers; parameters that DDP was told to ignore; sharded ones, and shards of models split over ranks of other
        process groups; hooks for communication that are not torch's own, which may average now and then (local SGD);
        programs that themselves sent a tensor as large as a half of the model's largest parameter; averaged copies
        of the weights; differences that were gone later. A difference of norms below 0.01 % is info. Quiet
        where another rule names the cause.

    What it costs
        Two sums over the parameters of DDP models in the first updates and then ever more rarely, in two transfers.
    """

    rule = "replicas-diverged"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> None:
        """Tell what this process has."""
        replicas = run.instrument(Replicas)
        if not replicas.sums.taken:
            return
        wraps = [wrap for wrap in replicas.wraps if wrap.number in replicas.sums.taken]
        run.instrument(Shares).mine[self.rule] = [
            {
                **replicas.sums.taken[wrap.number],
                "wrap": wrap.number,
                "label": wrap.label,
                "rank": wrap.rank,
                "by_hand": replicas.by_hand(wrap),
                "wrapped": wrap.site.place.to_dict() if wrap.site else None,
                "loads": [site.place.to_dict() for site in wrap.loads],
            }
            for wrap in wraps
        ]

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Compare what all processes told, where they can be heard."""
        if _EXPLAINED_BY & {finding.rule for finding in run.findings}:
            return
        told: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for process in run.instrument(Shares).of_all(self.rule):
            for each in process:
                told.setdefault((each["wrap"], each["label"], *each["ranks"]), []).append(each)
        for replicas in told.values():
            if any(each["by_hand"] for each in replicas):
                run.could_not_check(self.rule, "the program sends large tensors to other ranks itself")
                continue
            apart = [found for pair in combinations(replicas, 2) if (found := _difference(*pair)) is not None]
            if apart:
                yield self._finding(max(apart, key=lambda found: found["by"]), replicas)

    def _finding(self, found: dict[str, Any], replicas: list[dict[str, Any]]) -> Finding:
        one = replicas[0]
        load = _loaded_on_some(replicas)
        wrapped = Place.from_dict(one["wrapped"]) if one["wrapped"] else None
        harmed = found["by"] >= _HARM
        name, ours, theirs = found["parameter"]
        by = f"norms {ours:.6g} and {theirs:.6g}" if harmed else "by less than 0.01 % of their norms"
        since = f"; load_state_dict at {load[0]} ran on {_ranks(load[1])} alone" if load else ""
        return Finding(
            rule=self.rule,
            severity=self.severity if harmed else Severity.INFO,
            confidence=self.confidence,
            place=load[0] if load else wrapped,
            places=({"wrapped": wrapped} if wrapped else {}) | ({"loaded": load[0]} if load else {}),
            subject=one["label"],
            seen=f"after step {found['step']}, {found['count']} of {found['of']} parameters of {one['label']} differ "
            f"between {_ranks(found['ranks'])}: most in {name}, {by}{since}",
            why="DDP copies rank 0's weights once, when it wraps, and averages gradients from then on: ranks that "
            "differ stay different, and the average is the gradient of none of them",
            remedy="load on every rank, or before the wrap"
            if load
            else "change weights on every rank, or before the wrap; see that every rank clips, skips and steps alike",
            evidence={"apart": found["by"], "parameter": name, "first_seen": found["since"], "ranks": found["ranks"]},
            step=found["step"],
            rank=min(found["ranks"]),
        )


def _difference(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any] | None:
    """Where two replicas differ at the last moment that both told of; None where they do not."""
    common = [at for at in one["at"] if at in other["at"]]
    if not common or one["names"] != other["names"] or one["rank"] == other["rank"]:
        return None
    pairs = list(zip(one["names"], one["at"][common[-1]], other["at"][common[-1]], strict=True))
    apart = [(name, ours[1], theirs[1]) for name, ours, theirs in pairs if ours[0] != theirs[0]]
    if not apart:
        return None
    far = max(apart, key=_relative)
    since = next(at for at in common if _sums(one["at"][at]) != _sums(other["at"][at]))
    return {
        "by": _relative(far),
        "parameter": far,
        "count": len(apart),
        "of": len(pairs),
        "step": _step(common[-1]),
        "since": _step(since),
        "ranks": sorted([one["rank"], other["rank"]]),
    }


def _sums(sample: list[list[float]]) -> list[float]:
    return [each[0] for each in sample]


def _step(at: str) -> int:
    return int(at.partition(":")[2])


def _relative(apart: tuple[str, float, float]) -> float:
    _, ours, theirs = apart
    by = abs(ours - theirs) / max(abs(ours), abs(theirs), 1e-30)
    return by if by == by else 1.0  # one of them is NaN


def _loaded_on_some(replicas: list[dict[str, Any]]) -> tuple[Place, list[int]] | None:
    """A line that loaded a state into the wrapped model on some of the ranks, and on which."""
    places = {Place.from_dict(load) for each in replicas for load in each["loads"]}
    for place in sorted(places, key=str):
        ranks = [each["rank"] for each in replicas if place.to_dict() in each["loads"]]
        if len(ranks) < len(replicas):
            return place, sorted(ranks)
    return None


def _ranks(ranks: list[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"
