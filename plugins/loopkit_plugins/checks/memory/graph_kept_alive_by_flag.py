"""A backward keeps its graph, or makes one of its own, and nobody uses it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from loopkit import Confidence, Finding, Kind, Severity, Site, Update, hookimpl

_TIMES = 2


class GraphKeptAliveByFlag:
    """`retain_graph=True` on a backward whose graph is not used again, or `create_graph=True` for nothing.

    What it looks for
        A backward with `retain_graph=True` and, as the very next one, a backward through a graph that was made
        wholly afterwards: twice, and never otherwise. Or one loss, sent backward with `create_graph=True`, and
        no other backward in the update.

    Why that hurts
        All activations stay in memory until the loss is assigned anew, instead of being freed as backward goes. With
        `create_graph=True` gradients carry a graph of their own, which refers back to the parameters: a cycle.

    A loop that has it
        loss = criterion(model(x), y)
        loss.backward(retain_graph=True)
        optimizer.step()

    The repair
        Drop the flag. For gradients of gradients, use `torch.autograd.grad(..., create_graph=True)`.

    Left alone
        Two losses on one graph, gradient penalties and meta-learning, which do go through it again. It is info:
        what is called by `torch.autograd.grad` afterwards is not seen, and what it costs was not measured.

    What it costs
        Nothing beyond the walk of the loss graph, which is made in the first updates and then ever more rarely.
    """

    rule = "graph-kept-alive-by-flag"
    severity = Severity.INFO
    confidence = Confidence.FACT

    def __init__(self) -> None:
        self._spare: dict[str, int] = {}
        self._used = False
        self._said = False

    @hookimpl
    def update_finished(self, update: Update) -> Iterator[Finding]:
        """Count graphs that were kept and not used."""
        sent = [each for each in update.events if each.kind is Kind.BACKWARD]
        losses = [(event.site, loss) for event, loss in update.losses() if loss.walked and event.site is not None]
        if self._said or not losses or len(losses) < len(sent):
            return
        pairs = pairwise(loss for _, loss in losses)
        self._used = self._used or any(earlier.retained and not later.spare for earlier, later in pairs)
        site, loss = losses[0]
        if len(sent) > 1 or self._used:
            return
        which = "create_graph" if loss.double else "retain_graph" if loss.retained and loss.spare else ""
        if which and not loss.opaque:
            self._spare[which] = self._spare.get(which, 0) + 1
            if self._spare[which] >= _TIMES:
                self._said = True
                yield self._finding(site, which, update.number)

    def _finding(self, site: Site | None, which: str, number: int) -> Finding:
        assert site is not None
        retain = which == "retain_graph"
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=site.place,
            places={"backward": site.place},
            subject=which,
            seen="backward kept its graph (retain_graph=True), and the next backward went through a new one"
            if retain
            else "backward made a graph of the gradients (create_graph=True), and no other backward went through it",
            why="activations stay in memory longer than the step needs them"
            if retain
            else "parameters and their gradients refer to each other: memory is freed late, or never",
            remedy=f"drop {which}=True, unless torch.autograd.grad uses the graph",
            evidence={"flag": which, "backward_frames": [str(place) for place in site.chain]},
            step=number,
        )
