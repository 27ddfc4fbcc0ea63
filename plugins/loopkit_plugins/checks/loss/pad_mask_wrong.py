"""Padding takes part in the loss, or the end of a sequence is taken for padding and left out of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from loopkit import (
    Confidence,
    Criteria,
    CriterionReading,
    Event,
    Finding,
    NearReading,
    Padding,
    Run,
    Severity,
    Update,
    hookimpl,
)

_BATCHES = 3
"""Batches that must have shown a dropped end before it is said."""
_ENDS = 4
"""Ends that must have been dropped in them."""
_PADS = 8
"""Positions of declared padding, in two rows or more, that must be there."""
_MASKED = frozenset(("MaskedFill", "Where", "Mul", "Index"))
_DEFAULT = -100  # `ignore_index` of those who gave none


class PadMaskWrong:
    """Targets on padding count in the loss; or no end of a sequence does, because it looks like padding.

    What it looks for
        Cross-entropy whose targets are the token ids or labels of a forward that was given an `attention_mask`, in
        place or one position on. Then either targets that count where the mask is 0, all of them one token; or
        sequences that end in a real token equal to the padding, at half or more of those ends, none of which counts
        in any batch looked at, though the tokens before them do.
        Without a mask: rows that end in the `padding_idx` of the model's embeddings, and targets of the same shape
        that are one class at all those positions and count, as the loss ignores another class (error) or none
        (warning).

    Why that hurts
        A model that is graded on padding learns to predict padding: the loss looks good, as padding is easy, and
        real tokens weigh less the more of a batch is filled up. A model whose end-of-sequence labels are all masked
        never learns to stop.

    A loop that has it
        tokenizer.pad_token = tokenizer.eos_token
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        loss = model(**batch, labels=batch["input_ids"].clone()).loss
        loss.backward()

    The repair
        Mask labels by the attention mask: `labels[attention_mask == 0] = -100`. Not by id: where padding and end of
        sequence are one token, as with the collators that mask `labels == pad_token_id`, both go; give padding a
        token of its own then. Without a mask, give the loss the id that fills the targets as its `ignore_index`.

    Left alone
        Masks that are multiplied into the loss or the logits; class weights; packed sequences; padding on the left; a
        single padding token that stands for the end; holes in a mask between real tokens; texts without an end
        token; targets that are not those of the forward: classes, encoder-decoders, masked-out or shifted otherwise;
        losses whose graph is opaque. Without a mask: models that declare no padding, or use it inside of sequences;
        padding that stands for the end, as far as nothing else does.

    What it costs
        Copies of the mask, the ids and the labels in the first four updates, in new shapes of update, and then ever
        more rarely; some forty small operations on them at the backward of those; a transfer of a few numbers where a
        check sees it.
    """

    rule = "pad-mask-wrong"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._ends: dict[int, _Ends] = {}

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> Iterator[Finding]:
        """Judge each cross-entropy that was laid beside a mask, or beside tokens with padding."""
        found = list(self._beside_masks(update))
        yield from found
        if not found:
            for call in run.instrument(Criteria).of(update).calls:
                yield from self._beside_tokens(call)

    def _beside_masks(self, update: Update) -> Iterator[Finding]:
        for event, loss in update.losses():
            for term in loss.terms:
                if term.padding is None or event.site is None:
                    continue
                if term.padding.padded and term.padding.token is not None:
                    yield self._counted(event, term.padding, update.number)
                elif not term.padding.padded and term.padding.filler is not None:
                    ends = self._ends.setdefault(event.site.number, _Ends())
                    ends.add(term.padding)
                    if ends.never:
                        yield self._dropped(event, ends, term.padding.filler, update.number)

    def _beside_tokens(self, call: CriterionReading) -> Iterator[Finding]:
        if call.reduction == "none" or call.weighted or call.origin in _MASKED or call.ignored is None:
            return
        for near in call.near:
            if _is_trained_on(call, near):
                given = call.ignored != _DEFAULT
                if given or _has_an_end(near):
                    yield self._not_ignored(call, near, given)
                return

    def _not_ignored(self, call: CriterionReading, near: NearReading, given: bool) -> Finding:
        numbers = near.numbers
        pads, token, counted = int(numbers["pads"]), int(numbers["pad_low"]), int(call.numbers["counted"])
        seen = (
            f"{pads:,} of {counted:,} targets that count ({pads / counted:.0%}) stand where {near.name} is "
            f"{near.filler}, the padding_idx of the model; each of them is class {token}"
        )
        if given:
            seen += f", but ignore_index is {call.ignored}"
            if numbers["dropped"]:
                seen += f", and {numbers['dropped']:,.0f} targets elsewhere are that class and ignored"
        return Finding(
            rule=self.rule,
            severity=Severity.ERROR if given else Severity.WARNING,
            confidence=self.confidence if given else Confidence.FACT,
            place=call.site.place,
            seen=seen,
            why="the model is graded on padding: it learns to predict that, and real targets weigh less the more of "
            "a batch is filled up",
            remedy=f"give the loss ignore_index={token}, the class that fills the targets",
            evidence={
                "targets": counted,
                "padded_targets": pads,
                "token": token,
                "ignore_index": call.ignored,
                "direction": "padding counts",
                "framework": str(call.site.framework) if call.site.framework else None,
            },
        )

    def _counted(self, event: Event, padding: Padding, number: int) -> Finding:
        share = padding.padded / padding.counted
        return self._finding(
            event,
            seen=f"{padding.padded} of {padding.counted} targets that count ({share:.0%}) stand where attention_mask "
            f"is 0; each of them is token {padding.token}",
            why="the model is graded on padding: it learns to predict that, and real tokens weigh less the more of a "
            "batch is filled up",
            remedy="set labels[attention_mask == 0] = -100 before the loss is made",
            evidence={
                "targets": padding.counted,
                "padded_targets": padding.padded,
                "token": padding.token,
                "direction": "padding counts",
            },
            number=number,
        )

    def _dropped(self, event: Event, ends: _Ends, token: int, number: int) -> Finding:
        return self._finding(
            event,
            seen=f"{ends.dropped} of {ends.rows} sequences in {ends.batches} batches end in token {token}, which is "
            f"the padding too: attention_mask is 1 there, the label is ignored, and no target is token {token}",
            why="labels were masked by the id of padding, which is that of the end of a sequence as well: the model "
            "never learns to stop",
            remedy="mask labels where attention_mask is 0, not where they equal pad_token_id; or give padding "
            "a token of its own",
            evidence={
                "sequences": ends.rows,
                "dropped_ends": ends.dropped,
                "batches": ends.batches,
                "token": token,
                "direction": "no end counts",
            },
            number=number,
        )

    def _finding(
        self, event: Event, *, seen: str, why: str, remedy: str, evidence: dict[str, object], number: int
    ) -> Finding:
        site = event.site
        assert site is not None
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=site.place,
            places={"backward": site.place},
            seen=seen,
            why=why,
            remedy=remedy,
            evidence=evidence
            | {
                "backward_frames": [str(place) for place in site.chain],
                "framework": str(site.framework) if site.framework else None,
            },
            step=number,
        )


def _is_trained_on(call: CriterionReading, near: NearReading) -> bool:
    """Whether all that the model declares as padding has one class as its target, and that counts."""
    numbers = near.numbers
    pads = numbers.get("pads", 0)
    if pads < _PADS or numbers["padded_rows"] < 2 or numbers["pads_counted"] != pads:
        return False
    if numbers["inside"] or numbers["empty_rows"]:
        return False
    elsewhere = call.numbers["targets"] - pads
    return numbers["pad_low"] == numbers["pad_high"] and 2 * numbers["like_pad"] < elsewhere


def _has_an_end(near: NearReading) -> bool:
    """Whether padding is no sign of the end: it is no target before padding, or one token stands there already."""
    return not near.numbers["like_pad"] or near.numbers["last_low"] == near.numbers["last_high"]


@dataclass
class _Ends:
    """The ends of sequences in the batches of one backward's line that could be judged."""

    batches: int = 0
    rows: int = 0
    dropped: int = 0
    learned: int = 0

    def add(self, padding: Padding) -> None:
        self.batches += 1
        self.rows += padding.rows
        self.dropped += padding.dropped
        self.learned += padding.learned

    @property
    def never(self) -> bool:
        """Whether ends are there, and none was ever a target."""
        enough = self.batches >= _BATCHES and self.dropped >= _ENDS
        return enough and not self.learned and 2 * self.dropped >= self.rows
