"""Batch normalisation inside an activation checkpoint takes in each batch twice."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Finding, Modes, Recomputed, Run, Severity, hookimpl

_TIMES = 2


class BnDoubleUpdate:
    """The running statistics of batch normalisations move again when a backward computes a checkpoint anew.

    What it looks for
        Batch normalisations of a trained model whose running statistics move between the start of a backward and the
        step that follows, with no forward in between; in two of the updates looked at.

    Why that hurts
        Each batch counts twice, so that the momentum is nearly doubled: the averages that evaluation uses follow the
        latest batches more closely than was asked for. Mostly harmless, hence info.

    A loop that has it
        h = checkpoint(nn.Sequential(conv, nn.BatchNorm2d(64)), x, use_reentrant=False)
        criterion(head(h), y).backward()

    The repair
        Halve the momentum, about (m twice is 1 - (1 - m)² once), or leave the normalisation out of the checkpoint.

    Left alone
        Normalisations outside of checkpoints; a model that is called twice in one update.

    What it costs
        A number for each layer, in the updates whose graph is walked.
    """

    rule = "bn-double-update"
    severity = Severity.INFO
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._times = 0

    @hookimpl
    def mode_changed(self) -> None:
        """Heard so that modes are followed."""

    @hookimpl
    def update_finished(self, run: Run) -> Iterator[Finding]:
        """Count the backwards that moved statistics."""
        for seen in run.instrument(Modes).recomputed():
            self._times += 1
            if self._times == _TIMES:
                yield self._finding(seen)

    def _finding(self, seen: Recomputed) -> Finding:
        count = len(seen.layers)
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=seen.backward.place,
            places={"backward": seen.backward.place},
            subject=seen.layers[0],
            seen=f"backward moved the running statistics of {count} batch normalisation{'' if count == 1 else 's'} "
            f"({', '.join(seen.layers[:3])}{', …' if count > 3 else ''}) a second time for the same batch",
            why="a checkpoint computes its forward again in backward: each batch counts twice, and the momentum is "
            "nearly doubled",
            remedy="halve the momentum of these layers, or leave them out of the checkpoint",
            evidence={"layers": list(seen.layers[:16])},
            step=seen.steps + 1,
        )
