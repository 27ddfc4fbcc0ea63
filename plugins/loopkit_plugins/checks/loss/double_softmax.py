"""Probabilities are given to a loss that takes raw scores: softmax is applied twice."""

from __future__ import annotations

import math
from collections.abc import Iterator

from loopkit import Confidence, Event, Finding, LossNode, Operation, Severity, Update, hookimpl

_SQUEEZED = {"Softmax": Severity.ERROR, "Sigmoid": Severity.WARNING, "Hardsigmoid": Severity.WARNING}
_NAMES = {"Softmax": "softmax", "Sigmoid": "sigmoid", "Hardsigmoid": "hard sigmoid", "LogSoftmax": "log-softmax"}


class DoubleSoftmax:
    """Cross-entropy applies log-softmax to what softmax has already made probabilities.

    What it looks for
        In the graph of a loss, a log-softmax whose input is the output of a softmax over the same axis, with views,
        transpositions and casts between them at most; an error in a cross-entropy of class numbers, else a warning.
        Or, in a cross-entropy, of a sigmoid: a warning. A second log-softmax changes nothing, and is info.

    Why that hurts
        The scores the loss sees lie between 0 and 1. Even a perfect prediction of 10 classes still costs 1.46, where
        guessing costs 2.30; gradients are small, and learning stalls.

    A loop that has it
        model = nn.Sequential(nn.Linear(20, 10), nn.Softmax(dim=1))
        criterion = nn.CrossEntropyLoss()
        for x, y in loader:
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()

    The repair
        Give the loss the raw scores, and apply softmax where probabilities are shown.

    Left alone
        Softmax deeper in the network (attention, routers); a softmax over another axis; probabilities that are
        divided by a temperature, multiplied or taken the logarithm of on the way; losses whose graph is opaque
        (torch.compile, fused kernels).

    What it costs
        A few nodes of the loss graph, in the updates whose graphs are walked.
    """

    rule = "double-softmax"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    @hookimpl
    def update_finished(self, update: Update) -> Iterator[Finding]:
        """Judge each log-softmax of the update."""
        for event, loss in update.losses():
            for node in loss.nodes:
                first = _first(node)
                if first is not None and event.site is not None:
                    yield self._finding(event, node, first, update.number)

    def _finding(self, event: Event, node: LossNode, first: Operation, number: int) -> Finding:
        backward = event.site
        assert backward is not None
        made = node.site or backward
        name, is_twice = _NAMES[first.name], first.name == "LogSoftmax"
        classes = first.shape[first.classes] if first.classes is not None else 0
        floor = math.log1p((classes - 1) / math.e)
        return Finding(
            rule=self.rule,
            severity=_severity(node, first),
            confidence=self.confidence,
            place=made.place,
            places={"loss": made.place, "backward": backward.place},
            seen=f"the loss applies log-softmax to the output of a {name} over {classes} classes",
            why="a second log-softmax changes nothing: it is a computation too many"
            if is_twice
            else f"the scores lie between 0 and 1: a perfect prediction still costs {floor:.2f}, where guessing "
            f"costs {math.log(classes):.2f}; gradients are small and learning stalls",
            remedy=f"give the loss raw scores (logits): leave the {name} out of the model, or out of the call"
            + ("" if is_twice else ", and apply it only where probabilities are shown"),
            evidence={
                "activation": name,
                "classes": classes,
                "lowest_loss": None if is_twice else round(floor, 4),
                "loss_frames": [str(place) for place in made.chain],
                "backward_frames": [str(place) for place in backward.chain],
                "framework": str(made.framework) if made.framework else None,
            },
            step=number,
        )


def _severity(node: LossNode, first: Operation) -> Severity:
    if first.name == "LogSoftmax":
        return Severity.INFO
    # A divergence between attention maps is computed so on purpose, now and then.
    return _SQUEEZED[first.name] if node.kind.startswith("NllLoss") else Severity.WARNING


def _first(node: LossNode) -> Operation | None:
    """What a log-softmax was applied to, if that had normalised the same classes."""
    if len(node.operations) < 2 or node.operations[0].name != "LogSoftmax":
        return None
    own, first = node.operations[:2]
    if first.classes is None or own.axis != own.classes or first.shape[first.classes] < 2:
        return None
    if first.name in ("Softmax", "LogSoftmax"):
        return first if first.axis == first.classes else None
    return first if first.name in _SQUEEZED and node.kind.startswith("NllLoss") else None
