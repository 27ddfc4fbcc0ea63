"""An activation or dropout stands between the last layer and a loss that takes raw scores."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Event, Finding, LossNode, Severity, Update, hookimpl

_NAMES = {
    "Relu": ("ReLU", "no score is below 0, and where it is cut off no gradient comes back"),
    "Softplus": ("softplus", "no score is below 0"),
    "Tanh": ("tanh", "scores lie between -1 and 1: no prediction can be sure, and the loss cannot come near 0"),
    "Hardtanh": (
        "clipped linear activation",
        "scores are cut off on both sides, and no gradient comes back from there",
    ),
    "Gelu": ("GELU", "no score is below -0.2"),
    "Silu": ("SiLU", "no score is below -0.3"),
}
_DISTANCES = ("MseLoss", "SmoothL1Loss", "HuberLoss")
_SHARE = 0.1
"""Of the targets that must be out of reach before it is said."""


class FinalActivationBeforeLoss:
    """The last layer's scores go through an activation, or through dropout, before the loss sees them.

    What it looks for
        In the graph of a loss, directly before a cross-entropy or a binary cross-entropy with logits: ReLU, tanh,
        softplus, GELU or SiLU. Before a mean squared, smooth or Huber loss: ReLU, where a tenth of the targets or
        more is negative; and dropout. Dropout of scores in a classification is info.

    Why that hurts
        Half of the range of the scores is gone, and with it half of the gradient; targets there cannot be reached.
        Dropout sets predictions to 0 and scales the others.

    A loop that has it
        model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 10), nn.ReLU())
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

    The repair
        End the network with the linear layer.

    Left alone
        ReLU before targets that are not negative (counts, depth); scores that are scaled after tanh (caps); softmax
        and sigmoid, which are other rules' matter; activations that keep both signs without limit (LeakyReLU);
        losses whose graph is opaque.

    What it costs
        A few nodes of the loss graph, in the updates whose graphs are walked; one number from the device where ReLU
        meets a distance, and where a product before the loss may be dropout.
    """

    rule = "final-activation-before-loss"
    severity = Severity.WARNING
    confidence = Confidence.FACT

    @hookimpl
    def update_finished(self, update: Update) -> Iterator[Finding]:
        """Judge each loss function of the update."""
        for event, loss in update.losses():
            for node in loss.nodes:
                told = _scores(node) or _distance(node)
                if told is not None and event.site is not None:
                    yield self._finding(event, node, *told, update.number)

    def _finding(
        self, event: Event, node: LossNode, name: str, seen: str, why: str, severity: Severity, number: int
    ) -> Finding:
        backward = event.site
        assert backward is not None
        made = node.site or backward
        return Finding(
            rule=self.rule,
            severity=severity,
            confidence=self.confidence,
            place=made.place,
            places={"loss": made.place, "backward": backward.place},
            subject=name,
            seen=seen,
            why=why,
            remedy=f"end the network with its last layer: take the {name} after it out",
            evidence={
                "activation": name,
                "loss": node.kind,
                "negative_targets": node.negative,
                "loss_frames": [str(place) for place in made.chain],
                "backward_frames": [str(place) for place in backward.chain],
                "framework": str(made.framework) if made.framework else None,
            },
            step=number,
        )


Told = tuple[str, str, str, Severity]
"""The activation, what was seen, why it hurts, and how much."""


def _scores(node: LossNode) -> Told | None:
    """An activation before a loss that takes raw scores."""
    if node.kind.startswith("NllLoss"):
        what = "cross-entropy"
        if not node.operations or node.operations[0].name != "LogSoftmax":
            return None
    elif node.kind == "BinaryCrossEntropyWithLogits":
        what = "binary cross-entropy with logits"
    else:
        return None
    first = node.inputs[0].name if node.inputs else ""
    if first == "Dropout":
        why = "scores are set to 0 at random and the others scaled: the loss is noisier than the prediction"
        return "dropout", f"dropout is applied to the scores that {what} is given", why, Severity.INFO
    if first not in _NAMES:
        return None
    name, why = _NAMES[first]
    return name, f"a {name} is applied to the scores that {what} is given", why, Severity.WARNING


def _distance(node: LossNode) -> Told | None:
    """What keeps a prediction from its targets."""
    if node.kind not in _DISTANCES or not node.operations:
        return None
    if node.operations[0].name == "Dropout":
        why = "predictions are set to 0 at random and the others scaled: the loss is that of the noise"
        return "dropout", "dropout is applied to the prediction that the loss is made of", why, Severity.WARNING
    if node.negative is None or node.negative < _SHARE:
        return None
    seen = f"a ReLU is applied to the prediction, and {node.negative:.0%} of the targets are negative"
    why = "the prediction is never below 0: those targets cannot be reached, and the gradient there is 0"
    return "ReLU", seen, why, Severity.WARNING
