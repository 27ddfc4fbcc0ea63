"""A language model is trained on the token it is given, or on the one after the next."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Criteria, CriterionReading, Finding, NearReading, Run, Severity, Update, hookimpl

_TARGETS = 16
"""Targets that must be where the shift says."""
_OTHERWISE = 0.2
"""The share of targets that must not be the next token: in texts of few tokens every shift fits some."""


class LabelShiftWrong:
    """Labels of a causal language model are shifted twice, or not at all.

    What it looks for
        Cross-entropy every counting target of which is the token two positions on among the tokens that the model was
        given, or the very token at its position, and not the next one. The latter only where the model looks back
        alone (its attention says so in `is_causal`, its graph shows a causal kernel or mask, or it is one recurrent
        layer) and looks its tokens up as they were given, and nothing in its graph moves positions.

    Why that hurts
        Shifted twice, the model learns to skip a token: what it generates is no text. Not shifted, it copies what it
        sees: the loss falls to zero and nothing is learned.

    A loop that has it
        inputs, labels = ids[:, :-1], ids[:, 1:]
        loss = causal_lm(inputs, labels=labels).loss        # which shifts labels inside as well

    The repair
        Shift exactly once. Causal models of transformers shift inside: give them `labels=input_ids`.

    Left alone
        The next token; masked language models; autoencoders and encoder-decoders; models that shift inside, or
        are taught token by token; heads for several tokens at once; targets that are no tokens of the input.

    What it costs
        Copies of tokens and comparisons in the first four updates, in new shapes of update, and then ever more
        rarely.
    """

    rule = "label-shift-wrong"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> Iterator[Finding]:
        """Judge each cross-entropy that was laid beside tokens, where all of its update have one shift."""
        shifts: dict[int, list[tuple[CriterionReading, tuple[NearReading, int] | None]]] = {}
        for call in run.instrument(Criteria).of(update).calls:
            if call.near:
                shifts.setdefault(call.update, []).append((call, _shift(call)))
        for several in shifts.values():
            if len({None if shift is None else shift[1] for _, shift in several}) == 1:
                for call, shift in several:
                    if shift is not None:
                        yield self._finding(call, *shift)

    def _finding(self, call: CriterionReading, near: NearReading, ahead: int) -> Finding:
        compared = int(near.numbers[f"fits_{ahead}"])
        twice = ahead == 2
        what = f"the token two positions on in {near.name}" if twice else f"the token at its own place in {near.name}"
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=call.site.place,
            seen=f"each of the {compared:,} targets that could be compared is {what}; "
            f"{int(near.numbers['off_1']):,} of {int(near.numbers['fits_1']):,} are not the next token",
            why="the labels are shifted twice: the model learns to skip a token"
            if twice
            else "the labels are not shifted: the model is asked for the token that it is given, and learns to copy",
            remedy="shift once: causal models that are given labels= shift them inside, so give them labels=input_ids"
            if twice
            else "compare logits[:, :-1] with ids[:, 1:], or give the model ids[:, :-1] and the loss ids[:, 1:]",
            evidence={
                "shift": ahead,
                "targets": compared,
                "tokens": near.name,
                "framework": str(call.site.framework) if call.site.framework else None,
            },
        )


def _shift(call: CriterionReading) -> tuple[NearReading, int] | None:
    """By how many positions the targets are ahead of which tokens, where that is wrong."""
    if any(_fits(near, 1) for near in call.near):
        return None
    fits = [(near, ahead) for near in call.near for ahead in (0, 2) if _fits(near, ahead)]
    if len(fits) != 1:
        return None
    near, ahead = fits[0]
    if near.numbers["off_1"] <= _OTHERWISE * near.numbers["fits_1"] or not (ahead or _copies(near)):
        return None
    return near, ahead


def _copies(near: NearReading) -> bool:
    """Whether each position sees its own token: many models move what they are given by one before they use it."""
    return near.causal and bool(near.numbers["in_place"])


def _fits(near: NearReading, ahead: int) -> bool:
    return near.numbers[f"fits_{ahead}"] >= _TARGETS and not near.numbers[f"off_{ahead}"]
