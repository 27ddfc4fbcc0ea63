"""Many units of an activation never fire, or never leave their flat ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from loopkit import Confidence, Finding, LayerUnits, Models, Run, Severity, Units, Update, hookimpl


class UnitsDeadOrSaturated:
    """Half of an activation's units or more were dead, or saturated, for every sample at the last looks.

    What it looks for
        A heuristic, said only (info). ReLU, tanh and sigmoid keep what they returned for backward; at the updates
        whose graphs are walked, the 8th, 16th, 32nd …, it is seen which units fired for any sample (ReLU), or were
        nearer than 0.95 to their middle (tanh, sigmoid). Units that never were, at three looks in a row with 64
        values or more, the last of them at the 32nd update or later, count.

    Why that hurts
        A ReLU that never fires gets no gradient and never comes back; a unit in its flat end gets almost none.

    A loop that has it
        optimizer = SGD(model.parameters(), lr=10.0)        # one step too large, and the layer is dead

    The repair
        Lower the learning rate; another initialization, or an activation that does not die (LeakyReLU, GELU);
        normalize the inputs.

    Left alone
        Units that fire for some samples, which is what a ReLU is for; layers of fewer than eight units; gates of
        recurrent layers, which are not nodes of their own; models with more than 32 activations.

    What it costs
        A few operations for each of the first eight activations, where graphs are walked.
    """

    rule = "units-dead-or-saturated"
    severity = Severity.INFO
    confidence = Confidence.HEURISTIC
    symptom = True
    thresholds: ClassVar[Mapping[str, float]] = {
        "share": 0.5,  # of a layer's units
        "samples": 64,  # values each was seen with
        "updates": 32,
    }

    def __init__(self) -> None:
        self._told: set[tuple[str, int]] = set()

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> Iterator[Finding]:
        """Look, at the 32nd, 64th … occurrence of an update, while the model's layers have their names."""
        if update.updates >= self.thresholds["updates"]:
            for layer in run.instrument(Units).layers():
                key = layer.kind, layer.position
                if key not in self._told and self._is_idle(layer):
                    self._told.add(key)
                    yield self._finding(run, update, layer)

    def _is_idle(self, layer: LayerUnits) -> bool:
        enough = layer.samples >= self.thresholds["samples"] and layer.last + 1 >= self.thresholds["updates"]
        return enough and layer.idle >= self.thresholds["share"] * layer.units

    def _finding(self, run: Run, update: Update, layer: LayerUnits) -> Finding:
        weight = layer.weight()
        spot = run.instrument(Models).parameters().get(id(weight)) if weight is not None else None
        name = f"behind {spot.name.rpartition('.')[0]}" if spot is not None else f"number {layer.position}"
        backward = next((event.site for event, _ in update.losses() if event.site is not None), None)
        relu = layer.kind == "ReLU"
        what = "fired for no sample" if relu else "were in their flat ends for every sample"
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=backward.place if backward is not None else None,
            subject=f"{layer.kind} {name}",
            seen=f"{layer.idle} of {layer.units} units of the {layer.kind} {name} {what} ({layer.samples} values "
            f"each, updates {layer.first + 1} to {layer.last + 1}; a heuristic)",
            why="they get no gradient, and seldom come back" if relu else "they get almost no gradient",
            remedy="lower the learning rate, initialize otherwise, normalize the inputs, or use LeakyReLU or GELU",
            evidence={"kind": layer.kind, "position": layer.position, "units": layer.units, "idle": layer.idle},
            step=update.number,
        )
