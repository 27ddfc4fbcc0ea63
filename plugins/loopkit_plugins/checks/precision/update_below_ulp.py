"""Weights in half precision that the optimizer's updates are too small, or too fragile, for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from loopkit import (
    Confidence,
    Event,
    Finding,
    Ledger,
    Move,
    Moves,
    Run,
    Severity,
    StepMoves,
    StepReading,
    Update,
    hookimpl,
)

_HALF_OF_LEAST = 2.0**-25
"""What is smaller than half of float16's least number is 0 in it."""
_HALF = ("float16", "bfloat16")
_STEPS = 4
"""Steps that are looked at before anything is said; the first ones may be a warm-up."""
_LATE = 8
"""Of them the last is at least this step."""
_LOST, _MOSTLY = 0.5, 0.9
"""Shares of sampled weights that a step left as they were: a warning; an error."""
_FULL = 0.9
"""Of the rate that a schedule is a part of."""
_ENOUGH = 64
"""Weights compared in each step."""


class UpdateBelowUlp:
    """Weights are kept in bfloat16 or float16 alone, and updates are rounded away, or turn them into NaN.

    What it looks for
        Torch's own optimizers on half-precision parameters. In float16: an `eps` that is 0 there, such as Adam's
        1e-8, which follows from the configuration alone (a fused optimizer computes in float32 and is left alone).
        In both: of sampled weights whose gradient is not 0, how many have the very same bits after the step, at each
        of at least four looks. From half on it is a warning, from nine of ten on an error.

    Why that hurts
        An update smaller than half a rounding step vanishes, and so do a thousand of them in a row: bfloat16 has 8
        bits, so a weight of 1 does not move by less than 0.002. With an eps of 0, a gradient of 0 makes 0 / 0: NaN.

    A loop that has it
        model = model.to(torch.bfloat16)
        optimizer = AdamW(model.parameters(), lr=1e-5)

    The repair
        Keep the weights in float32 and compute in half precision under `torch.autocast`; or an optimizer with
        float32 copies, stochastic rounding or Kahan summation.

    Left alone
        Optimizers that are not torch's own (they may round otherwise, or keep copies); frozen weights; gradients that
        are 0; a learning rate of 0; a warm-up, while the rate grows or is below the one its schedule is a part of.

    What it costs
        Nothing of its own: what steps do to a few weights is looked at where graphs are walked.
    """

    rule = "update-below-ulp"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._known: set[int] = set()

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> Iterator[Finding]:
        """Judge the configuration of an optimizer at its first steps, and later what its steps did."""
        for event, step in update.steps():
            if event.site is None or not step.stock or step.number in self._known:
                continue
            eps = _eps_of_zero(run, step)
            if eps is not None:
                self._known.add(step.number)
                yield self._of_eps(update, event, step, eps)
            elif step.steps >= _LATE:
                found = self._of_moves(run, update, event, step)
                if found is not None:
                    self._known.add(step.number)
                    yield found

    def _of_eps(self, update: Update, event: Event, step: StepReading, found: tuple[float, int]) -> Finding:
        eps, count = found
        assert event.site is not None
        return Finding(
            rule=self.rule,
            severity=Severity.ERROR,
            confidence=Confidence.PROOF,
            place=event.site.place,
            places={"step": event.site.place},
            subject=step.optimizer,
            seen=f"{step.optimizer} steps {count} float16 parameters with an eps of {eps:g}, which is 0 in float16, "
            "whose least number is 0.00000006",
            why="where a gradient is 0, or its square is, the update is a quotient by 0: weights turn NaN",
            remedy="keep the weights in float32 and use torch.autocast with a GradScaler, or bfloat16; or eps=1e-4",
            evidence={"optimizer": step.optimizer, "eps": eps, "parameters": count},
            step=update.number,
        )

    def _of_moves(self, run: Run, update: Update, event: Event, step: StepReading) -> Finding | None:
        looks = _at_full_rate([each for each in run.instrument(Moves).of_steps() if each.number == step.number])
        counted = [(each.step, *_counts(each.moves)) for each in looks]
        counted = [(number, fed, moved) for number, fed, moved in counted if fed >= _ENOUGH]
        if len(counted) < _STEPS or counted[-1][0] < _LATE or event.site is None:
            return None
        # The look that moved most decides.
        share = min(1 - moved / fed for _, fed, moved in counted)
        if share < _LOST:
            return None
        number, fed, moved = counted[-1]
        dtype = next(move.dtype for move in looks[-1].moves if move.dtype in _HALF)
        return Finding(
            rule=self.rule,
            severity=Severity.ERROR if share >= _MOSTLY else Severity.WARNING,
            confidence=Confidence.PROOF,
            place=event.site.place,
            places={"step": event.site.place},
            subject=step.optimizer,
            seen=f"{step.optimizer} keeps its weights in {dtype}: of {fed} sampled weights with a gradient, "
            f"{fed - moved} had the same bits after step {number}, and {share:.0%} or more at {len(counted)} looks",
            why="the update is smaller than half a rounding step and is lost, however often it comes",
            remedy="float32 weights and torch.autocast; or float32 copies, stochastic rounding, Kahan summation",
            evidence={
                "optimizer": step.optimizer,
                "dtype": dtype,
                "least_share_unmoved": share,
                "looks": [list(each) for each in counted],
            },
            step=update.number,
        )


def _eps_of_zero(run: Run, step: StepReading) -> tuple[float, int] | None:
    """An eps that float16 rounds to 0, and how many float16 parameters it is meant for."""
    owner = next((each for each in run.instrument(Ledger).owners() if each.number == step.number), None)
    optimizer = owner.optimizer() if owner is not None else None
    for group in getattr(optimizer, "param_groups", ()):
        eps = group.get("eps")
        half = [each for each in group["params"] if _is_half(each)]
        if half and isinstance(eps, float) and eps < _HALF_OF_LEAST:
            # Fused kernels compute in float32, and a capturable optimizer divides its eps by the rate first.
            if group.get("fused") or group.get("capturable"):
                continue
            return eps, len(half)
    return None


def _is_half(parameter: Any) -> bool:
    return str(parameter.dtype) == "torch.float16" and parameter.requires_grad


def _at_full_rate(looks: list[StepMoves]) -> list[StepMoves]:
    """The looks at steps with the rate that is meant: a scheduler, or a rate that grows, tells of a warm-up."""
    if len(looks) > 1 and looks[-1].rate > max(look.rate for look in looks[:-1]):
        return []
    full = max((look.full_rate or look.rate for look in looks), default=0.0)
    return [look for look in looks if look.rate >= _FULL * full]


def _counts(moves: tuple[Move, ...]) -> tuple[int, int]:
    """Of sampled half-precision weights: how many had a gradient, and how many of those moved."""
    half = [move for move in moves if move.dtype in _HALF]
    return sum(move.fed for move in half), sum(move.moved for move in half)
