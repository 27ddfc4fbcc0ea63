"""Dropout is drawn in a forward of a model that is in evaluation mode."""

from __future__ import annotations

import linecache
from collections.abc import Iterator

from loopkit import Confidence, Draw, Finding, ForwardReading, Modes, Place, Run, Severity, hookimpl

_LINES = 8
"""Of one call that are read, to see whether it says `training=` itself."""


class StochasticOpInEval:
    """Dropout stays active in evaluation mode, because the function that draws it is not told the mode.

    What it looks for
        A forward without gradients of a model that is wholly in evaluation mode, inside which `dropout` was called
        with its default `training=True`, or `scaled_dot_product_attention` with a `dropout_p` above 0.

    Why that hurts
        Predictions are random and worse than those of the model: the validation loss, the choice of the best
        checkpoint and everything in production are computed with a thinned-out network.

    A loop that has it
        def forward(self, x):
            x = F.dropout(x, 0.4)
            return self.head(x)

    The repair
        Pass the mode: `F.dropout(x, 0.4, training=self.training)`, and `dropout_p=self.p if self.training else 0.0`;
        or use `nn.Dropout`, which knows it.

    Left alone
        Layers that were put in training mode on purpose (MC-dropout); calls that say `training=` themselves; one
        input several times in a row; sampling, noise of a latent, and all other randomness that is no dropout.

    What it costs
        Dropouts are heard in the first two calls without gradients of the 1st, 2nd, 4th, 8th … evaluation, where they
        cost 2 µs each.
    """

    rule = "stochastic-op-in-eval"
    severity = Severity.WARNING
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._last = 0

    @hookimpl
    def mode_changed(self) -> None:
        """Heard so that modes are followed."""

    @hookimpl
    def update_finished(self, run: Run) -> Iterator[Finding]:
        """Judge the evaluations that are over."""
        yield from self._judge(run, final=False)

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Judge the last one too."""
        yield from self._judge(run, final=True)

    def _judge(self, run: Run, *, final: bool) -> Iterator[Finding]:
        for reading in run.instrument(Modes).forwards(self._last, final=final):
            self._last = max(self._last, reading.number)
            if not reading.still or reading.repeated:
                continue
            for site in dict.fromkeys(draw.site for draw in reading.draws):
                draws = [draw for draw in reading.draws if draw.site is site]
                if not _says_so(draws[0], site.framework or site.place):
                    yield self._finding(reading, draws)

    def _finding(self, reading: ForwardReading, draws: list[Draw]) -> Finding:
        kind, p, site = draws[0]
        attention = kind.startswith("scaled")
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=site.place,
            places={"forward": reading.site.place},
            subject=kind,
            seen=f"{kind} drew (p = {p:g}) in a forward of {reading.model} in evaluation mode, "
            f"at {reading.site.place}",
            why="predictions are random, and worse than those of the model; eval() does not reach a function that is "
            "not told the mode",
            remedy="pass dropout_p=p if self.training else 0.0" if attention else "pass training=self.training",
            evidence={
                "model": reading.model,
                "function": kind,
                "p": p,
                "frames": [str(place) for place in site.chain],
                "framework": str(site.framework) if site.framework else None,
            },
            step=reading.steps,
        )


def _says_so(draw: Draw, place: Place) -> bool:
    """Whether the call names the mode: what it passes is then meant."""
    if draw.kind.startswith("scaled"):
        return False
    text, depth = "", 0
    for number in range(place.line, place.line + _LINES):
        line = linecache.getline(place.file, number)
        text += line
        depth += line.count("(") - line.count(")")
        if depth <= 0:
            break
    return "train" in text.lower()
