"""Something is computed in another precision than the loop around it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from loopkit import Confidence, Event, Finding, Ledger, LossReading, Run, Severity, StepReading, Update, hookimpl

_COARSE = ("float16", "bfloat16")


class DtypeNotAsIntended:
    """A loss, or part of the weights, has another precision than the rest: half, or double.

    What it looks for
        A loss that is sent backward in float16 or bfloat16, though the weights are not: autocast cast them, and
        leaves a loss written by hand in that type. Trainable parameters of one optimizer in several precisions. These
        are facts (info): what harm they do, the loop does not show.

    Why that hurts
        A mean over many losses in half precision has three digits, and a small change of it none. A layer that is
        left in float64, or an array of NumPy's that became one, makes everything after it so: several times slower,
        and on a GPU far more. A layer that is left in half precision learns otherwise than its neighbours.

    A loop that has it
        bias = nn.Parameter(torch.from_numpy(np.zeros(10)))     # float64

    The repair
        `loss = criterion(output.float(), target)`; `.to(torch.float32)` where it was meant; autocast for the rest.

    Left alone
        Weights and losses in float32, under autocast too; frozen parameters of any precision; a scalar parameter,
        such as a temperature; a model, or master copies of its weights, all of one precision.

    What it costs
        A look at the types of all parameters at an optimizer's first step.
    """

    rule = "dtype-not-as-intended"
    severity = Severity.INFO
    confidence = Confidence.FACT

    def __init__(self) -> None:
        self._met: set[int] = set()

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> Iterator[Finding]:
        """Look at losses whose graph was walked, and at each optimizer once."""
        for event, loss in update.losses():
            if loss.dtype in _COARSE and dict(loss.casts).get(loss.dtype) and event.site is not None:
                yield self._of_loss(update, event, loss)
                break
        for event, step in update.steps():
            if step.number not in self._met and event.site is not None:
                self._met.add(step.number)
                counts = _types(run, step)
                if len(counts) > 1:
                    yield self._of_weights(update, event, step, counts)

    def _of_loss(self, update: Update, event: Event, loss: LossReading) -> Finding:
        assert event.site is not None
        digits = 3 if loss.dtype == "float16" else 2
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=event.site.place,
            places={"backward": event.site.place},
            subject="loss",
            seen=f"the loss sent backward is {loss.dtype}, though the weights are not: autocast casts them on use",
            why=f"it has {digits} digits: sums and means of many values are coarse in it",
            remedy="compute the loss in float32: a function of torch.nn.functional, or output.float() before it",
            evidence={"dtype": loss.dtype, "casts": dict(loss.casts)},
            step=update.number,
        )

    def _of_weights(self, update: Update, event: Event, step: StepReading, counts: dict[str, int]) -> Finding:
        assert event.site is not None
        told = ", ".join(f"{count} {name}" for name, count in counts.items())
        double = "float64" in counts
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=event.site.place,
            places={"step": event.site.place},
            subject=step.optimizer,
            seen=f"the trainable parameters of {step.optimizer} are {told}",
            why="float64 is several times slower than float32, and what it meets becomes float64"
            if double
            else "parts of one model learn with different precision: updates that one keeps, another rounds away",
            remedy="give all of them the precision that was meant, .to(torch.float32), and use autocast for speed",
            evidence={"optimizer": step.optimizer, "types": counts},
            step=update.number,
        )


def _types(run: Run, step: StepReading) -> dict[str, int]:
    """How many of an optimizer's trainable parameters, scalars left out, have each type; the commonest first."""
    owner = next((each for each in run.instrument(Ledger).owners() if each.number == step.number), None)
    counts: dict[str, int] = {}
    for parameter in owner.parameters() if owner is not None else ():
        if _counts(parameter):
            name = str(parameter.dtype).removeprefix("torch.")
            counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def _counts(parameter: Any) -> bool:
    return bool(parameter.requires_grad and parameter.is_floating_point() and parameter.numel() > 1)
