"""Softmax runs over an axis that is not that of the classes."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Event, Finding, LossNode, Severity, Update, hookimpl

_LAYERS = ("Addmm", "Mm")
_WHY = "scores of different samples or positions compete with each other, and those of the classes do not"


class SoftmaxWrongAxis:
    """The probabilities that a loss is made of do not sum to 1 over the classes.

    What it looks for
        In the graph of a loss, next to it: a softmax or log-softmax over another axis than the one from which the
        cross-entropy takes its classes; over an axis of one entry; or over the samples of a batch, before a mean
        squared error or binary cross-entropy (a warning). And a cross-entropy of shape (N, T, C), which takes its
        classes from axis 1, while the layer that made it has its outputs on the last: where T is C nothing fails.

    Why that hurts
        Samples or positions compete, and classes do not: the loss falls, and says nothing. Over one entry the output
        is always 1, the loss 0, and so is each gradient.

    A loop that has it
        for words, tags in loader:  # as many words in a sentence as there are tags
            optimizer.zero_grad()
            scores = tagger(words)  # (N, T, C)
            F.cross_entropy(scores, tags).backward()
            optimizer.step()

    The repair
        Give the axis of the classes: `log_softmax(x, dim=1)`, `cross_entropy(scores.transpose(1, 2), tags)`. With one
        score a sample use `BCEWithLogitsLoss`.

    Left alone
        Attention, and all that is not next to the loss; losses over both axes of a square (contrastive ones);
        axes that cannot be followed through what lies between; layers that work along another axis than the last
        because their input was transposed; losses whose graph is opaque.

    What it costs
        A few nodes of the loss graph, in the updates whose graphs are walked.
    """

    rule = "softmax-wrong-axis"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    @hookimpl
    def update_finished(self, update: Update) -> Iterator[Finding]:
        """Judge each loss function of the update."""
        for event, loss in update.losses():
            for node in loss.nodes:
                told = _single(node) or _across(node) or _moved(node)
                if told is not None and event.site is not None:
                    yield self._finding(event, node, *told, Severity.ERROR, update.number)
                elif (told := _over_samples(node)) is not None and event.site is not None:
                    yield self._finding(event, node, *told, Severity.WARNING, update.number)

    def _finding(
        self, event: Event, node: LossNode, seen: str, why: str, remedy: str, severity: Severity, number: int
    ) -> Finding:
        backward = event.site
        assert backward is not None
        made = node.site or backward
        return Finding(
            rule=self.rule,
            severity=severity,
            confidence=self.confidence if severity is Severity.ERROR else Confidence.FACT,
            place=made.place,
            places={"loss": made.place, "backward": backward.place},
            seen=seen,
            why=why,
            remedy=remedy,
            evidence={
                "operations": [f"{each.name} {each.shape}" for each in node.operations],
                "class_axis": node.classes,
                "loss_frames": [str(place) for place in made.chain],
                "backward_frames": [str(place) for place in backward.chain],
                "framework": str(made.framework) if made.framework else None,
            },
            step=number,
        )


Told = tuple[str, str, str]
"""What was seen, why it hurts, what to try."""


def _single(node: LossNode) -> Told | None:
    """A softmax over one entry, next to the loss."""
    for each in node.operations[:2]:
        if each.axis is None or not node.kind or node.kind == "LogSoftmax":
            return None
        if each.shape[each.axis] == 1:
            return (
                f"softmax runs over axis {each.axis} of shape {each.shape}, which has one entry",
                "over one entry its output is always 1: the gradient is exactly 0, and nothing is learned",
                "use binary_cross_entropy_with_logits for one score a sample, or give the axis of the classes",
            )
    return None


def _across(node: LossNode) -> Told | None:
    """A cross-entropy of a softmax over another axis than its classes'."""
    if not node.kind.startswith("NllLoss"):
        return None
    for each in node.operations[:2]:
        if each.name == "Log":
            continue
        if each.axis is None or each.classes is None:
            return None
        square = len(each.shape) == 2 and each.shape[0] == each.shape[1]
        if each.axis != each.classes and not square:
            return (
                f"softmax runs over axis {each.axis} of shape {each.shape}; the loss takes its "
                f"{each.shape[each.classes]} classes from axis {each.classes}",
                _WHY,
                f"normalise over the classes: dim={each.classes}, not dim={each.axis}",
            )
    return None


def _moved(node: LossNode) -> Told | None:
    """A cross-entropy over positions whose class axis is not the one that the layer's outputs are on."""
    if node.kind != "NllLoss2D" or not node.operations or node.features is None or node.features == node.classes:
        return None
    first = node.operations[0]
    if first.axis is None or first.axis != first.classes or len(first.shape) < 3:
        return None
    channels = node.operations[-1].name == "Convolution"
    where = "axis 1 of the convolution" if channels else "the last axis of the linear layer"
    return (
        f"cross_entropy takes the classes from axis 1 of shape {first.shape}, but the {first.shape[1]} outputs of "
        f"the layer that made it lie on another axis ({where}): softmax runs over positions",
        _WHY,
        "move the class dimension to axis 1: cross_entropy(scores.transpose(1, 2), target), or permute it there",
    )


def _over_samples(node: LossNode) -> Told | None:
    """A softmax over the rows of a linear layer's output, next to a loss that compares it number by number."""
    if node.kind.startswith(("NllLoss", "LogSoftmax")) or len(node.operations) < 2:
        return None
    first, layer = node.operations[:2]
    if (
        first.axis != 0
        or len(first.shape) != 2
        or layer.name not in _LAYERS
        or layer.shape != first.shape
        or min(first.shape) < 2
    ):
        return None
    return (
        f"softmax runs over axis 0 of shape {first.shape}, the samples; the layer's {first.shape[1]} outputs are on "
        "axis 1",
        _WHY,
        "normalise over the outputs: dim=1, or dim=-1",
    )
