"""The forward runs in float16 and the loss is not scaled."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import (
    Confidence,
    Event,
    Finding,
    Kind,
    LossReading,
    Moves,
    Run,
    Severity,
    StepReading,
    UnscaleReading,
    Update,
    hookimpl,
)

_STATIC = 8.0
"""A constant factor of the loss from here on is a loss scale of the author's own."""
_SHARE = 0.1
"""Of gradients that are not 0, from which share on that float16 holds with fewer bits the harm counts as measured."""


class Fp16WithoutScaler:
    """Autocast to float16 without loss scaling: small gradients lose their digits, and the smallest are 0.

    What it looks for
        A step on gradients of losses in whose graph weights are cast to float16, where nothing has multiplied the
        loss. A sample of the gradients shows the harm: of those that are not 0, how many lie below 0.00006, where
        float16 has fewer bits the smaller a number is. From a tenth on it is a warning, else only said (info).

    Why that hurts
        Gradients below 0.00000006 are 0 in float16, those below 0.00006 are coarse: layers far from the loss learn
        slowly or not at all.

    A loop that has it
        with torch.autocast("cuda", dtype=torch.float16):
            loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()

    The repair
        `torch.amp.GradScaler`, or `dtype=torch.bfloat16`, which needs none.

    Left alone
        bfloat16; a loss that a constant of 8 or more multiplies; losses that do not reach the cast weights.

    What it costs
        Nothing of its own: what steps do to a few weights is looked at where graphs are walked.
    """

    rule = "fp16-without-scaler"
    severity = Severity.WARNING
    confidence = Confidence.FACT

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> Iterator[Finding]:
        """Judge each step by the graphs of its losses."""
        for at, event in enumerate(update.events):
            step = event.reading
            if not isinstance(step, StepReading) or not step.fresh or step.scaled or event.site is None:
                continue
            sent = [each for each in update.events[:at] if each.kind is Kind.BACKWARD and each.site in step.made_by]
            losses = [each.reading for each in sent if isinstance(each.reading, LossReading)]
            unscaled = any(isinstance(each.reading, UnscaleReading) for each in update.events[:at])
            if losses and len(losses) == len(sent) and not unscaled and all(map(_is_half, losses)):
                yield self._finding(run, update, sent[-1], step, losses[-1])

    def _finding(self, run: Run, update: Update, sent: Event, step: StepReading, loss: LossReading) -> Finding:
        assert sent.site is not None
        fed, coarse = _coarse(run, step.number)
        harm = fed > 0 and coarse >= _SHARE * fed
        casts = dict(loss.casts)["float16"]
        return Finding(
            rule=self.rule,
            severity=Severity.WARNING if harm else Severity.INFO,
            confidence=self.confidence,
            place=sent.site.place,
            places={"backward": sent.site.place},
            subject=step.optimizer,
            seen=f"{casts} weights are cast to float16, and the loss is not scaled: of {fed} sampled gradients that "
            f"are not 0, {coarse} lie below 0.00006",
            why="there float16 has fewer bits the smaller a number is, and below 0.00000006 it is 0",
            remedy="scale the loss with torch.amp.GradScaler, or let autocast cast to torch.bfloat16",
            evidence={"optimizer": step.optimizer, "casts": casts, "gradients": fed, "coarse": coarse},
            step=update.number,
        )


def _is_half(loss: LossReading) -> bool:
    """Whether a loss was made in float16 and nothing has scaled it."""
    if not loss.walked or loss.scaled or not dict(loss.casts).get("float16"):
        return False
    return abs(loss.factor) < _STATIC and all(abs(loss.factor * term.factor) < _STATIC for term in loss.terms)


def _coarse(run: Run, number: int) -> tuple[int, int]:
    """Of the sampled gradients of an optimizer's last step: those that are not 0, and those that float16 cuts."""
    steps = [each for each in run.instrument(Moves).of_steps() if each.number == number]
    moves = steps[-1].moves if steps else ()
    return sum(move.fed for move in moves), sum(move.subnormal for move in moves)
