"""A loss is computed and is part of none that is sent backward."""

from __future__ import annotations

import linecache
import re

from loopkit import Confidence, Event, Finding, Ledger, Place, Run, Severity, UnusedLoss, Update, hookimpl

_UPDATES = 3
_STEPS, _KEPT = 16, 12
"""Of a run, and of those the updates in which what learns nothing must have kept its values."""
_LINES = 12
"""How far below the call the slip of the pen is looked for."""
_ABOVE = 3


class UnusedLossTerm:
    """A term of the loss was computed with a graph, and no backward ever saw it.

    What it looks for
        At the end of a run: a call of a loss function whose result was in no loss that was sent backward, in the
        first updates and in those looked at later. A warning where modules in the optimizer are reached by that loss
        alone: no gradient ever came to them. An error where `loss =+ term` stands below it, which throws away what
        `loss` was.

    Why that hurts
        What the term was to teach is not learned.

    A loop that has it
        for x, y, box in loader:
            logits, where = detector(x)
            loss = cross_entropy(logits, y)
            loss =+ smooth_l1_loss(where, box)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    The repair
        Add the term: `loss += term`. Compute what is only to be shown under `torch.no_grad()`.

    Left alone
        Numbers that are only shown: losses without which all parameters get their gradients; losses of another
        player, or that are sent backward later; terms with a coefficient of 0; terms that are added at some later
        time; losses put together by hand, and those inside what torch.compile has taken.

    What it costs
        In the updates whose graphs are walked, a wrapper around the loss functions, and a walk of the graph of each
        loss that was not used before.
    """

    rule = "unused-loss-term"
    severity = Severity.WARNING
    confidence = Confidence.FACT

    def __init__(self) -> None:
        self._latest: list[tuple[Event, UnusedLoss, int]] = []

    @hookimpl
    def update_finished(self, update: Update) -> None:
        """Keep what the latest walk says."""
        walked = [(event, loss) for event, loss in update.losses() if loss.walked and event.site is not None]
        if walked:
            event, loss = walked[-1]
            self._latest = [(event, each, update.number) for each in loss.unused if each.updates >= _UPDATES]

    @hookimpl(tryfirst=True)  # before the sinks close
    def run_finished(self, run: Run) -> None:
        """Report what is left: no later phase of the training has used it."""
        if any(found.rule == "grad-path-cut" for found in run.findings):
            return  # which loss was sent backward is what is wrong there
        awaited = run.instrument(Ledger).awaited
        for event, unused, number in self._latest:
            kept = [(owner, name) for owner, name, updates in unused.modules if updates >= _KEPT]
            modules = [name for owner, name in kept if (owner, name) in awaited]
            slip = _slip(unused.site.place)
            if slip is not None or (modules and run.steps >= _STEPS):
                run.report(self._finding(event, unused, modules, slip, number))

    def _finding(
        self, event: Event, unused: UnusedLoss, modules: list[str], slip: Place | None, number: int
    ) -> Finding:
        assert event.site is not None
        made = unused.site.place
        alone = f"; no gradient ever came to {', '.join(modules)}, which only it reaches" if modules else ""
        thrown = f": the =+ at {slip} assigns, and throws it away" if slip else ""
        return Finding(
            rule=self.rule,
            severity=Severity.ERROR if slip else self.severity,
            confidence=Confidence.PROOF if slip else self.confidence,
            place=slip or made,
            places={"loss": made, "backward": event.site.place},
            subject=unused.kind,
            seen=f"the {unused.kind} made at {made} has a graph, and was part of no loss that was sent "
            f"backward{thrown}{alone}",
            why="what this term was to teach is not learned",
            remedy="write += in place of =+" if slip else "add it to the loss, or compute it under torch.no_grad()",
            evidence={
                "function": unused.kind,
                "modules": modules,
                "updates": unused.updates,
                "loss_frames": [str(place) for place in unused.site.chain],
                "backward_frames": [str(place) for place in event.site.chain],
            },
            step=number,
        )


def _slip(place: Place) -> Place | None:
    """The line below `place` that says `name =+ …`, of the name that the loss made there was given."""
    lines = linecache.getlines(place.file)
    above = lines[max(0, place.line - 1 - _ABOVE) : place.line]
    given = next((found for line in reversed(above) if (found := re.match(r"\s*(\w+)\s*=(?!=)", line))), None)
    if given is None:
        return None
    slip = re.compile(rf"\s*{given[1]}\s*=\s*\+(?!\+)")
    for at, line in enumerate(lines[place.line : place.line + _LINES], place.line + 1):
        if slip.match(line):
            return Place(place.file, at, place.function)
    return None
