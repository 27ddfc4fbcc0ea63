"""Frozen batch normalisations follow the new data."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Finding, FrozenNorm, Modes, Run, Severity, TrainReading, hookimpl

_SHIFT = 0.5
_RATIO = 2.0
_LOOKS = 3


class FrozenBnStatsMove:
    """The parameters of batch normalisations are frozen, and their running statistics are not.

    What it looks for
        Batch normalisations whose parameters never require a gradient, in a model in training mode of which other
        parts are trained, and whose statistics, not those of a new layer, change from update to update. A warning
        where the mean of some layer has moved by half a standard deviation, or its variance by a factor of two, in
        half of its channels; else info.

    Why that hurts
        `requires_grad_(False)` stops gradients alone. The backbone that was to stay as it was pretrained drifts, the
        head is trained on features that change, and a checkpoint of the head no longer fits the original backbone.

    A loop that has it
        for parameter in model.backbone.parameters():
            parameter.requires_grad = False
        model.backbone.eval()
        for epoch in range(10):
            model.train()
            ...

    The repair
        Put the backbone in evaluation mode after each `model.train()`, or override `train` of the model to do so; or
        use a frozen batch normalisation.

    Left alone
        New layers; layers in evaluation mode; a momentum of 0; layers that are sometimes trained (the discriminator
        in a generator's step); models in evaluation mode but for their norms; models of which nothing is trained.

    What it costs
        A copy of the statistics of at most 16 layers, compared in the updates whose graph is walked.
    """

    rule = "frozen-bn-stats-move"
    severity = Severity.WARNING
    confidence = Confidence.FACT

    def __init__(self) -> None:
        self._last = 0
        self._trained: TrainReading | None = None
        self._moving: list[FrozenNorm] = []
        self._said = False

    @hookimpl
    def mode_changed(self) -> None:
        """Heard so that modes are followed."""

    @hookimpl
    def update_finished(self, run: Run) -> Iterator[Finding]:
        """Warn once the statistics are far from what they were."""
        modes = run.instrument(Modes)
        new = [each for each in modes.trainings(self._last) if each.training]
        if not new or self._said:
            return
        self._last, self._trained = new[-1].number, new[-1]
        norms = [each for each in modes.frozen_norms() if each.moved and each.trained and each.looks >= _LOOKS]
        if norms:
            self._moving = norms
        if any(_is_far(each) for each in norms):
            yield self._finding(Severity.WARNING)

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Say what has moved, if not far."""
        if self._moving and not self._said:
            yield self._finding(Severity.INFO)

    def _finding(self, severity: Severity) -> Finding:
        self._said = True
        reading = self._trained
        assert reading is not None
        farthest = max(self._moving, key=lambda each: max(each.shift / _SHIFT, each.ratio / _RATIO))
        change = reading.change
        places = {"forward": reading.forward.place}
        if change is not None and change.training:
            places["train"] = change.site.place
        return Finding(
            rule=self.rule,
            severity=severity,
            confidence=self.confidence,
            place=places.get("train", reading.forward.place),
            places=places,
            subject=reading.model,
            seen=f"the running statistics of {len(self._moving)} frozen batch normalisation"
            f"{'' if len(self._moving) == 1 else 's'} move: the mean of {farthest.name} by {farthest.shift:.2g} "
            f"standard deviations, its variance by a factor of {farthest.ratio:.2g} so far",
            why="requires_grad_(False) stops gradients alone: in training mode the frozen part follows the data",
            remedy="call eval() on the frozen part after each model.train(), or override its train()",
            evidence={
                "model": reading.model,
                "layers": [each.name for each in self._moving],
                "shift": farthest.shift,
                "variance_ratio": farthest.ratio,
            },
            step=reading.steps,
        )


def _is_far(norm: FrozenNorm) -> bool:
    return norm.shift >= _SHIFT or norm.ratio >= _RATIO
