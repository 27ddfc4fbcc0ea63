"""A GradScaler leaves out step after step."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

from loopkit import CallSites, Confidence, Finding, Place, Run, Scales, Severity, hookimpl

_SITES = 87  # no kind of torch call has this number
_RUN = 10
"""Steps left out in a row, with a scale below 1, after which the scale settles no more."""
_LONG_RUN = 100
"""Steps left out in a row, with any scale."""


class _Skips:
    """Of one optimizer: steps left out in a row, and how many steps the run had executed then."""

    def __init__(self) -> None:
        self.row = 0
        self.steps = -1
        self.place: Place | None = None
        self.told = False


class ScalerCollapse:
    """The GradScaler skips one step after another, and its scale falls to nothing: training stands still.

    What it looks for
        Steps of one optimizer that a GradScaler left out with no executed step between them: ten when the scale has
        fallen below 1, which a scale that settles never does, or a hundred with any scale.

    Why that hurts
        The loop looks busy, and no weight moves. Gradients that are not finite at a scale below 1 are so without any
        scaling: no smaller scale repairs them.

    A loop that has it
        with torch.autocast("cuda", dtype=torch.float16):
            loss = criterion(model(x), y) / mask.sum()      # 0 / 0
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    The repair
        Find where the overflow begins (`nonfinite-values` names it where it can); use bfloat16, clip after
        `unscale_`, lower the learning rate.

    Left alone
        The first steps, while the scale settles, however large it was set; single steps that are left out.

    What it costs
        One call a step that is left out; the scale is read once the row is long.
    """

    rule = "scaler-collapse"
    severity = Severity.WARNING
    confidence = Confidence.FACT

    def __init__(self) -> None:
        self._skips: weakref.WeakKeyDictionary[Any, _Skips] = weakref.WeakKeyDictionary()

    @hookimpl
    def step_skipped(self, run: Run, optimizer: Any) -> Iterator[Finding]:
        """Count, and judge a row that is long."""
        skips = self._skips.setdefault(optimizer, _Skips())
        if skips.told:
            return
        skips.row = skips.row + 1 if skips.steps == run.steps else 1
        skips.steps = run.steps
        if skips.row < _RUN:
            return
        scale = min(run.instrument(Scales).now(), default=1.0)
        if scale < 1 or skips.row >= _LONG_RUN:
            skips.told = True
            chain = run.instrument(CallSites).here(_SITES, brief=True).chain
            yield self._finding(run, type(optimizer).__name__, skips.row, scale, chain[0] if chain else None)

    def _finding(self, run: Run, optimizer: str, row: int, scale: float, place: Place | None) -> Finding:
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=place,
            subject=optimizer,
            seen=f"the GradScaler has left out {row} steps of {optimizer} in a row; its scale is down to {scale:.3g}",
            why="no weight moves; gradients that are not finite with so small a scale are so without one"
            if scale < 1
            else "no weight moves, however long the loop goes on",
            remedy="find where the overflow begins; use bfloat16, clip after unscale_, or lower the learning rate",
            evidence={"optimizer": optimizer, "skipped": row, "scale": scale, "executed": run.steps},
        )
