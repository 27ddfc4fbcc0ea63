"""Prediction and target have different shapes, and were repeated to fit each other."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Event, Finding, LossNode, Severity, Spread, Update, hookimpl


class LossBroadcast:
    """A prediction of N×1 meets a target of N: the loss is taken over all N×N pairs.

    What it looks for
        A difference or product of N and N×1 that makes N×N, directly below the mean or sum that is the loss; in
        `mse_loss` and its like as well as in losses written by hand. That the target was the same for each
        prediction is seen from its shape, or from the numbers of the difference where no shape is left.

    Why that hurts
        Each prediction is compared with the targets of all other samples: what the model learns is their mean.

    A loop that has it
        model = nn.Linear(20, 1)
        for x, y in loader:  # y has shape (N,)
            optimizer.zero_grad()
            ((model(x) - y) ** 2).mean().backward()
            optimizer.step()

    The repair
        Make the shapes equal: `model(x).squeeze(1)`, or `y.unsqueeze(1)`.

    Left alone
        Pairs that are meant: contrastive, ranking and kernel losses, whose axes are made by `unsqueeze`, `[:, None]`
        or a transposition, or which pair the predictions among themselves; weights; shapes that agree; batches of
        one; losses whose graph is opaque.

    What it costs
        A few nodes of the loss graph, in the updates whose graphs are walked; where a suspicion needs the numbers,
        one transfer of one number.
    """

    rule = "loss-broadcast"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    @hookimpl
    def update_finished(self, update: Update) -> Iterator[Finding]:
        """Judge each loss of the update."""
        for event, loss in update.losses():
            for node in loss.nodes:
                if node.spread is not None and event.site is not None:
                    yield self._finding(event, node, node.spread, update.number)

    def _finding(self, event: Event, node: LossNode, spread: Spread, number: int) -> Finding:
        backward = event.site
        assert backward is not None
        made = node.site or backward
        samples = spread.result[0]
        change = "squeeze(1) the prediction" if len(spread.prediction) == 2 else "squeeze(1) the target"
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=made.place,
            places={"loss": made.place, "backward": backward.place},
            seen=f"a prediction of shape {spread.prediction} meets a target of shape {spread.target}: both were "
            f"broadcast to {spread.result}, and the loss is that of {samples**2} pairs, not of {samples} samples",
            why="each prediction is compared with the targets of all other samples: the model learns their mean",
            remedy=f"make the shapes equal before the loss: {change}, or unsqueeze(1) the other",
            evidence={
                "prediction": list(spread.prediction),
                "target": list(spread.target),
                "result": list(spread.result),
                "loss_frames": [str(place) for place in made.chain],
                "backward_frames": [str(place) for place in backward.chain],
                "framework": str(made.framework) if made.framework else None,
            },
            step=number,
        )
