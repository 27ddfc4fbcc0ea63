"""A model that takes an attention mask is given padded batches without one."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Criteria, DoorReading, Finding, Run, Severity, Update, hookimpl

_PADS = 8
"""Positions of padding that must be there, in two rows or more."""


class AttentionMaskMissing:
    """Padded sequences go into a model without the attention mask that it takes.

    What it looks for
        A call of a model whose forward has an argument `attention_mask`, which is not given, while rows of its tokens
        end in the id that its embeddings declare as padding (`padding_idx`), and that id stands nowhere else. Its
        attention says of itself that it looks both ways (`is_causal`), as in encoders.

    Why that hurts
        Every token attends to the padding: what a sequence gives depends on how long the longest of its batch is, in
        training and again when the model is used on other batches.

    A loop that has it
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        out = model(input_ids=batch["input_ids"], labels=labels)
        out.loss.backward()

    The repair
        Pass the mask that the tokenizer or the collator made: `model(**batch, labels=labels)`, or
        `attention_mask=batch["attention_mask"]`.

    Left alone
        Causal models padded on the right, whose tokens see nothing of what follows; batches without padding; models
        that use the padding id as a token; models that take no mask, or do not say which way they look.

    What it costs
        A copy of the tokens and a count of padding in the first four updates, in new shapes of update, and then ever
        more rarely; a walk over the model's modules, once.
    """

    rule = "attention-mask-missing"
    severity = Severity.WARNING
    confidence = Confidence.FACT

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> Iterator[Finding]:
        """Judge each call of a model that was read."""
        for door in run.instrument(Criteria).of(update).doors:
            if door.unmasked and door.numbers.get("pads", 0) >= _PADS:
                numbers = door.numbers
                if numbers["padded_rows"] >= 2 and not numbers["inside"] and not numbers["empty_rows"]:
                    yield self._finding(door)

    def _finding(self, door: DoorReading) -> Finding:
        numbers = door.numbers
        rows, positions = int(numbers["padded_rows"] + numbers["full_rows"]), door.shape[0] * door.shape[1]
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=door.site.place,
            subject=door.model,
            seen=f"{door.model} was called without attention_mask on a batch in which {numbers['padded_rows']:.0f} "
            f"of {rows} rows end in padding (id {door.filler}): {numbers['pads']:,.0f} of {positions:,} positions",
            why="its attention looks both ways, at the padding too: what a sequence gives depends on the longest of "
            "its batch",
            remedy="pass the mask beside the tokens: attention_mask=batch['attention_mask'], or "
            f"attention_mask=(input_ids != {door.filler})",
            evidence={
                "rows": rows,
                "padded_rows": int(numbers["padded_rows"]),
                "pads": int(numbers["pads"]),
                "padding_id": door.filler,
                "framework": str(door.site.framework) if door.site.framework else None,
            },
        )
