"""A comment that silences a rule where there is nothing to silence."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Finding, Run, Severity, Silence, hookimpl


class UnusedSilence:
    """A `# loopkit: ignore[...]` comment silences nothing.

    What it looks for
        At the end of a run, in each file of yours that took part in training: comments that name a rule which does
        not exist; that stand on a line without code, where no finding can be; or that stand on a line of the loop
        which ran and of which the rule had nothing to say. A comment that names several rules is judged rule by rule.

    Why that hurts
        A silence outlives the bug it was written for, and hides the next one on that line. One that is misspelt or
        on the wrong line hides nothing, though its author believes so.

    A loop that has it
        for x, y in loader:
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()  # loopkit: ignore[missing-zero-grad] the sum is meant
            optimizer.step()

    The repair
        Delete the comment, or the rule from its list. A comment silences its own line only, the one that the finding
        names: move it to the end of that line.

    Left alone
        Rules that were ignored, not selected, not loaded, failed, or listed as not checked in this run; runs that
        were stopped or failed; lines of which no event came, as they may not have run; files that took no part;
        text inside strings, and code that is commented out; comments that silence something in another process of
        the run.

    What it costs
        Nothing while training: at the end each of those files is read once.
    """

    rule = "unused-silence"
    severity = Severity.INFO
    confidence = Confidence.FACT

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Judge each rule that a comment names."""
        for silence in run.silences():
            if silence.rule == self.rule:
                continue
            if not silence.known:
                yield self._finding(
                    silence,
                    f"the comment silences {silence.rule!r}, which no installed check has{silence.nearest}",
                    "correct the name (`loopkit rules` lists them), or delete the comment",
                )
            elif silence.used or not run.judged(silence.rule):
                continue
            elif silence.alone:
                yield self._finding(
                    silence,
                    f"the comment silences {silence.rule} on a line that has no code",
                    "move it to the end of the line that the finding names, or delete it",
                )
            elif silence.ran:
                yield self._finding(
                    silence,
                    f"the comment silences {silence.rule}, which found nothing on this line in "
                    f"{sum(run.steps_by_process()):,} optimizer steps",
                    "delete the comment, or move it to the line that the finding names",
                )

    def _finding(self, silence: Silence, seen: str, remedy: str) -> Finding:
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=silence.place,
            subject=silence.rule,
            seen=seen,
            why="what it was written for is not silenced by it, or is gone, and it hides the next bug on that line",
            remedy=remedy,
            evidence={"rule": silence.rule, "alone": silence.alone, "known": silence.known},
        )
