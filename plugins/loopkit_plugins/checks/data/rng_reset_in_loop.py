"""A random generator is set back inside the training loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from loopkit import Confidence, Draws, Feed, Finding, Run, Severity, Site, hookimpl


class RngResetInLoop:
    """A seed is set inside the loop: each epoch shuffles alike, or each step draws the same dropout.

    What it looks for
        Two passes of one training over a loader that began with the generator in the same state, although each pass
        draws a seed from it; or two training steps whose forwards drew random numbers (dropout, noise) and ended with
        the generators in the same state. A generator that is left alone never comes back to where it was.

    Why that hurts
        What was to be random is the same again and again: one order of the data, one dropout mask, one noise.

    A loop that has it
        for epoch in range(epochs):
            torch.manual_seed(0)
            for x, y in loader:
                train_step(x, y)

    The repair
        Seed once, before the loop. To make an evaluation repeatable, seed inside `torch.random.fork_rng()`.

    Left alone
        Seeding before the loop, also before each of several trainings; a seed of its own for each epoch; a generator
        that is set back after an evaluation; loops in which nothing is random; checkpoints that recompute; samples
        that seed a generator of their own.

    What it costs
        A copy of the generator's state (5 KB) when a pass begins, and around the forwards of the first updates.
    """

    rule = "rng-reset-in-loop"
    severity = Severity.WARNING
    confidence = Confidence.FACT

    def __init__(self) -> None:
        self._seeds: list[tuple[int, Site, Any]] = []
        self._said = False

    @hookimpl
    def generator_seeded(self, run: Run, seed: Any, site: Site) -> None:
        """Note where, and after how many steps."""
        self._seeds = [*self._seeds[-8:], (run.steps, site, seed)]

    @hookimpl
    def loader_exhausted(self, run: Run, feed: Feed) -> Iterator[Finding]:
        """Judge a pass that is over."""
        yield from self._judge(run, feed)

    @hookimpl
    def loader_started(self, run: Run, feed: Feed) -> Iterator[Finding]:
        """Judge the pass before, if it was left without asking for its end."""
        if feed.before is not None and not feed.before.ends:
            yield from self._judge(run, feed.before)

    @hookimpl
    def update_finished(self, run: Run) -> Iterator[Finding]:
        """Judge the steps that were compared."""
        same = run.instrument(Draws).same
        if same is not None and not self._said:
            first, second, site = same
            yield self._finding(
                site,
                f"the forwards after {first} and after {second} steps drew random numbers and ended with the "
                "generators in the same state: both drew the same",
                "each such step has the same dropout or noise",
                (first, second),
            )

    def _judge(self, run: Run, feed: Feed) -> Iterator[Finding]:
        before = feed.before
        if before is None or self._said or not feed.trained or feed.order.epoch is not None:
            return
        if feed.order.sequential and not run.instrument(Draws).drew:
            return  # nothing is random
        now, then = feed.order.state, before.order.state
        if now is None or then is None or not torch.equal(now, then) or not feed.goes_on_from(before):
            return
        yield self._finding(
            feed.site,
            f"passes {before.ordinal} and {feed.ordinal} over this loader began with the random generator in the "
            "same state, though each draws from it",
            "each epoch shuffles alike, and what it draws beside (dropout, augmentation) is the same again",
            (before.ordinal, feed.ordinal),
        )

    def _finding(self, site: Site, seen: str, why: str, evidence: tuple[int, int]) -> Finding:
        self._said = True
        seeds = [each for steps, each, _ in self._seeds if steps]
        place = seeds[-1].place if seeds else site.place
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=place,
            places={"drawn": site.place},
            seen=seen + (f"; torch.manual_seed was called at {place} meanwhile" if seeds else ""),
            why=why,
            remedy="seed once, before the loop; to repeat an evaluation, seed inside torch.random.fork_rng()",
            evidence={"same": list(evidence), "seeded": bool(seeds)},
        )
