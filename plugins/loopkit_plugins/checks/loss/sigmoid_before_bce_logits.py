"""Probabilities are given to a binary cross-entropy that applies sigmoid itself."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Event, Finding, LossNode, Severity, Update, hookimpl

_NAMES = {"Sigmoid": "sigmoid", "Hardsigmoid": "hard sigmoid", "Softmax": "softmax"}


class SigmoidBeforeBceLogits:
    """Sigmoid is applied twice on the way into a binary cross-entropy.

    What it looks for
        In the graph of a loss, a binary cross-entropy with logits whose input is the output of a sigmoid or softmax,
        with views and casts between them at most; or a binary cross-entropy of a sigmoid of such an output.

    Why that hurts
        The probabilities lie between 0.50 and 0.73: nothing is ever predicted to be negative. A perfect prediction
        still costs 0.69 for each negative target and 0.31 for each positive one, and gradients are small.

    A loop that has it
        model = nn.Sequential(nn.Linear(20, 1), nn.Sigmoid())
        criterion = nn.BCEWithLogitsLoss()
        for x, y in loader:
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()

    The repair
        Give the loss the raw scores and leave the sigmoid out of the model; or keep it, and use `BCELoss`.

    Left alone
        Gates and attention further up; sigmoids that are scaled, shifted or taken the logit of on the way; losses
        whose graph is opaque (torch.compile, fused kernels).

    What it costs
        A few nodes of the loss graph, in the updates whose graphs are walked.
    """

    rule = "sigmoid-before-bce-logits"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    @hookimpl
    def update_finished(self, update: Update) -> Iterator[Finding]:
        """Judge each binary cross-entropy of the update."""
        for event, loss in update.losses():
            for node in loss.nodes:
                first = _first(node)
                if first and event.site is not None:
                    yield self._finding(event, node, first, update.number)

    def _finding(self, event: Event, node: LossNode, first: str, number: int) -> Finding:
        backward = event.site
        assert backward is not None
        made = node.site or backward
        logits = node.kind.endswith("WithLogits")
        whose = "binary_cross_entropy_with_logits applies sigmoid to" if logits else "sigmoid is applied to"
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=made.place,
            places={"loss": made.place, "backward": backward.place},
            seen=f"{whose} the output of a {first}: a second time",
            why="probabilities lie between 0.50 and 0.73: a perfect prediction still costs 0.69 for each negative "
            "target and 0.31 for each positive one, and gradients are small",
            remedy=f"give the loss raw scores (logits): leave the {first} out of the model"
            + (", or use BCELoss (binary_cross_entropy) with it" if logits else ", or out of the call"),
            evidence={
                "activation": first,
                "loss_frames": [str(place) for place in made.chain],
                "backward_frames": [str(place) for place in backward.chain],
                "framework": str(made.framework) if made.framework else None,
            },
            step=number,
        )


def _first(node: LossNode) -> str:
    """What the loss's own sigmoid was applied to, if that gives probabilities; else ""."""
    names = [each.name for each in node.operations]
    if node.kind == "BinaryCrossEntropyWithLogits":
        return _NAMES.get(names[0], "") if names else ""
    if node.kind == "BinaryCrossEntropy" and len(names) > 1 and names[0] == "Sigmoid":
        return _NAMES.get(names[1], "")
    return ""
