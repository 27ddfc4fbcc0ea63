"""The very first loss is far from that of a guess."""

from __future__ import annotations

import math
from collections.abc import Iterator

from loopkit import Confidence, Criteria, CriterionReading, Finding, Run, Severity, Update, hookimpl

_TIMES, _MORE = 3.0, 2.0
"""How many times the loss of a guess a first loss is that is too high, and by how much more."""
_SHARE = 0.1
"""The share of it below which one is too low."""


class InitLossOff:
    """A classifier's first loss is far above or below the loss of a guess.

    What it looks for
        The first cross-entropy of the run beside ln C, of C classes, or the first binary cross-entropy beside ln 2:
        three times as much and 2 more, or less than a tenth.

    Why that hurts
        Far above, the first scores are large and wrong: the last layer begins too large, inputs are not scaled, or
        labels are off. Far below, an untrained model knows the labels: they leak into the input.

    A loop that has it
        nn.init.normal_(model.head.weight, std=5.0)
        loss = F.cross_entropy(model(x), y)

    The repair
        Scale the input; begin with a small last layer; look whether the label is among the features.

    Left alone
        It is only said (info): pretrained weights, tied embeddings and a bias set to the classes' shares move the
        first loss and are meant. Sums, weighted and smoothed losses are not judged.

    What it costs
        Nothing that is not read anyway.
    """

    rule = "init-loss-off"
    severity = Severity.INFO
    confidence = Confidence.HEURISTIC

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> Iterator[Finding]:
        """Judge the first loss."""
        calls = [call for call in run.instrument(Criteria).of(update).calls if call.update == 1]
        for call in calls[:1]:
            guess, loss = _guess(call), call.numbers["loss"]
            high = loss >= _TIMES * guess and loss >= guess + _MORE
            if guess and (high or loss < _SHARE * guess):
                yield self._finding(call, guess, high=high)

    def _finding(self, call: CriterionReading, guess: float, *, high: bool) -> Finding:
        loss = call.numbers["loss"]
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=call.site.place,
            seen=f"the first {call.kind} is {loss:.4g}, where a guess has {guess:.3g}",
            why="the first scores are large and wrong" if high else "a model that was not trained knows the labels",
            remedy="scale the input, begin with a smaller last layer, look at the labels"
            if high
            else "look whether the label is among the features; weights that were trained before explain it",
            evidence={"loss": loss, "guess": guess},
        )


def _guess(call: CriterionReading) -> float:
    """The loss of a guess; 0 where it is not known."""
    if call.reduction == "sum" or call.weighted or call.smoothed:
        return 0.0
    if call.kind == "binary_cross_entropy_with_logits":
        return math.log(2)
    return math.log(call.classes) if call.kind == "cross_entropy" and call.classes > 1 else 0.0
