"""Every target of a batch is the ignored one: nothing is learned from it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from loopkit import Confidence, Criteria, CriterionReading, Finding, Run, Severity, Update, hookimpl

_OFTEN = 0.5
"""The share of batches looked at from which on it is the rule, where their loss is a number."""
_BATCHES = 2
"""Batches without a target that are wanted for that."""


@dataclass
class _Counted:
    batches: int = 0
    empty: int = 0


class AllLabelsIgnored:
    """All targets of a batch equal `ignore_index`, so its loss is NaN, or zero without a gradient.

    What it looks for
        Cross-entropy or NLLLoss none of whose targets counts, in a call whose result is sent backward.

    Why that hurts
        A mean over no targets is NaN, and so is the loss that is logged; a sum is 0. Either way the batch teaches
        nothing. A template or collator that masks too much, or truncation that cuts off the answer, makes it so.

    A loop that has it
        labels = torch.full_like(ids, -100)
        labels[:, prompt_length:] = ids[:, prompt_length:]      # prompt_length is that of the longest text
        cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()

    The repair
        Look at the labels of one batch beside its text; mask the prompt alone, truncate on the other side, and drop
        samples without an answer.

    Left alone
        Batches in which some targets count, however few. Where the loss is a finite number (a sum, or a mean over
        all samples), a single batch, and fewer than half of those looked at.

    What it costs
        A count of targets in the first four updates, in new shapes of update, and then ever more rarely.
    """

    rule = "all-labels-ignored"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._counted: dict[int, _Counted] = {}

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> Iterator[Finding]:
        """Count at each line that calls the loss."""
        for call in run.instrument(Criteria).of(update).calls:
            if "counted" not in call.numbers:
                continue
            counted = self._counted.setdefault(call.site.spot, _Counted())
            counted.batches += 1
            if not call.numbers["counted"]:
                counted.empty += 1
                is_rule = counted.empty >= _BATCHES and counted.empty >= _OFTEN * counted.batches
                if is_rule or math.isnan(call.numbers["loss"]):
                    yield self._finding(call, counted)

    def _finding(self, call: CriterionReading, counted: _Counted) -> Finding:
        loss = call.numbers["loss"]
        targets = int(call.numbers["targets"])
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=call.site.place,
            seen=f"all {targets:,} targets of {call.kind} are the ignored {call.ignored}, in {counted.empty} of "
            f"{counted.batches} batches looked at; the loss is {loss:.4g}",
            why="nothing is learned from such a batch, and a mean over no targets is NaN",
            remedy="look at the labels beside their inputs: mask less, truncate elsewhere, or drop samples without "
            "labels; check that ignore_index is no real class",
            evidence={
                "targets": targets,
                "ignore_index": call.ignored,
                "batches": counted.batches,
                "empty": counted.empty,
                "loss": None if math.isnan(loss) else loss,
                "framework": str(call.site.framework) if call.site.framework else None,
            },
        )
