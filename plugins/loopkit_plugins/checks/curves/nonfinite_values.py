"""A loss is NaN or infinite, and the weights are lost."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator

from loopkit import BadLoss, Confidence, Finding, Finiteness, Run, Severity, Update, hookimpl

_GROWN = 1e3  # times what it was, from which on a loss has run away rather than met a bad value
_HIDES = "HF Trainer logs 0.0 in its place (logging_nan_inf_filter, on unless it is set to False)"


class NonfiniteValues:
    """A loss that is NaN or infinite was sent backward, and the step that followed has lost the weights.

    What it looks for
        Each loss that is sent backward. When one is not finite, the parameters are read before and after the next
        step. In the first updates, and at the 8th, 16th, 32nd …, that is before the step: then the inputs are looked
        at, and the forward is run once more on a copy of the model, to name the first module whose output is not
        finite. Later it is noticed up to 64 backwards after it happened: step and batch are known, the module is not.

    Why that hurts
        One NaN in a gradient makes every weight it reaches NaN, and all later updates compute with it. The loop looks
        busy, and nothing is learned any more.

    A loop that has it
        inputs = (table - table.mean(0)) / table.std(0)     # 0 / 0 in a column that is constant
        loss = criterion(model(inputs), target)
        loss.backward()
        optimizer.step()

    The repair
        At the module or input that is named: a logarithm or quotient of 0, an overflow in half precision, a bad
        sample. A loss that grew before it overflowed needs a lower learning rate, clipping or a warm-up.

    Left alone
        An infinite loss whose step a GradScaler skipped, which is how its scale settles; masks of minus infinity; NaN
        targets that are filtered out. A NaN whose step was skipped, or a loop that looks at its gradients itself and
        whose weights stay whole, is only told (info).

    What it costs
        A detached copy of each loss, read with 63 others in one transfer; on a device ever more of them. When a loss
        is bad: one read of all parameters before and after the step, and one more forward on a copy, with every
        random state put back.
    """

    rule = "nonfinite-values"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._hidden = False
        self._lost = False
        self._whole: list[BadLoss] = []  # told at the end, unless a later one lost the weights

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> None:
        """Tell of what is known by now; an update with a bad loss is new to checks."""
        bad = run.instrument(Finiteness).take()
        self._hidden = self._hidden or (bool(bad) and _is_hidden())
        for finding in self._told(bad):
            run.report(finding)  # of one moment, not of all updates of this shape

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Read the losses that are left."""
        watched = run.instrument(Finiteness)
        yield from self._told(watched.take(at_end=True))
        if not self._lost:
            yield from map(self._finding, self._whole[:1])
        if watched.error is not None:
            run.could_not_check(self.rule, f"a loss could not be read: {watched.error!r}")

    def _told(self, bad: list[BadLoss]) -> Iterator[Finding]:
        for each in bad:
            if each.lost and not self._lost:
                self._lost = True
                yield self._finding(each)
            elif not each.lost and not _settles(each):
                self._whole.append(each)

    def _finding(self, bad: BadLoss) -> Finding:
        lost = bad.lost > 0
        hides = [_HIDES] if self._hidden else []
        return Finding(
            rule=self.rule,
            severity=Severity.ERROR if lost else Severity.INFO,
            confidence=self.confidence if lost else Confidence.FACT,
            place=bad.site.place,
            places={"backward": bad.site.place},
            subject="weights" if lost else "loss",
            seen=f"{_loss(bad)}: {_origin(bad)}{_harm(bad)}",
            why="; ".join([_WHY[lost], *hides]),
            remedy=_remedy(bad),
            evidence={
                "value": str(bad.value),
                "batch": bad.batch,
                "losses_before": [float(f"{value:.4g}") for value in bad.before[-8:]],
                "origin": bad.origin.kind,
                "module": bad.origin.name,
                "parameters": bad.parameters,
                "lost": bad.lost,
                "lost_before": bad.lost_before,
                "names": list(bad.names),
                "outcome": bad.outcome,
                "noticed_late": bad.late,
                "backward_frames": [str(place) for place in bad.site.chain],
            },
            step=bad.step,
        )


def _settles(bad: BadLoss) -> bool:
    """Whether it is a loss that its scale made infinite: the GradScaler skips the step, and lowers the scale."""
    return bad.outcome == "skipped" and math.isinf(bad.value)


_WHY = {
    True: "every later update computes with weights that are not finite: nothing is learned any more",
    False: "its gradients are not finite either, and a step would lose the weights",
}


def _loss(bad: BadLoss) -> str:
    """Which loss it was."""
    which = f"the loss of batch {bad.batch}" if bad.batch else "the loss sent backward"
    return f"{which}, after {bad.step} step{'s' * (bad.step != 1)}, is {_name(bad.value)}"


def _name(value: float) -> str:
    return "NaN" if math.isnan(value) else "inf" if value > 0 else "-inf"


def _origin(bad: BadLoss) -> str:
    """Where it began."""
    origin = bad.origin
    if origin.kind == "input":
        where = origin.name or "an argument"
        return f"{origin.bad} of {origin.total} values given to the model in {where} are not finite"
    if origin.kind == "module":
        what = f"{origin.bad} of {origin.total} values that {origin.name} ({origin.type}) returned are not finite"
        return f"{what}, and all that it was given is"
    if origin.kind == "around":
        return (
            f"what {origin.name} ({origin.type}) was given is not finite, though all that modules returned before is"
        )
    if origin.kind == "target":
        return f"{origin.bad} of {origin.total} of its targets are not finite, and all that the model returned is"
    if origin.kind == "operation":
        what = f"{origin.name} by 0" if origin.name == "a division" else f"{origin.name} of what is not above 0"
        return f"all that the model returned is finite, and {what} follows: {origin.bad} of {origin.total} values"
    if origin.kind == "loss":
        return "all that the model returned is finite, so it began in the loss or in its targets"
    if origin.kind == "weights":
        how = "the step before had lost them, by its gradients or by its own arithmetic"
        return f"{_share(bad.lost_before, bad)} were not finite before its forward ({_names(bad)}): {how}"
    grown = _growth(bad)
    why = f"the module is not known: {origin.why}"
    return f"it had grown from {grown[0]:.3g} to {grown[1]:.3g} within {grown[2]} backwards" if grown else why


def _share(count: int | None, bad: BadLoss) -> str:
    return f"{count} of {bad.parameters} parameters"


def _names(bad: BadLoss) -> str:
    more = "" if len(bad.names) == (bad.lost_before or bad.lost) else ", …"
    return ", ".join(bad.names) + more


def _harm(bad: BadLoss) -> str:
    if bad.origin.kind == "weights":
        return ""
    if bad.lost:
        when = "by now" if bad.late else "after the step"
        return f"; {when} {_share(bad.lost, bad)} are not finite ({_names(bad)})"
    if bad.outcome == "skipped":
        return "; the GradScaler left the step out, and the weights are whole"
    if bad.parameters is None:
        return "; what became of the weights is not known"
    return "; the weights are whole"


def _growth(bad: BadLoss) -> tuple[float, float, int] | None:
    """From what to what the loss had grown, and within how many backwards; None where it did not run away."""
    sizes = [abs(value) for value in bad.before]
    if len(sizes) < 2:
        return None
    top, least = max(sizes[-3:]), min(sizes)
    if least * _GROWN >= top:
        return None
    return least, top, sizes[::-1].index(least)


def _remedy(bad: BadLoss) -> str:
    if _growth(bad):
        return "lower the learning rate: the loss had run away before it overflowed; or warm it up, clip gradients"
    if bad.origin.kind == "input":
        return "look at how this input is made: a missing value, or a division by a deviation of 0"
    if bad.origin.kind in ("module", "around"):
        return f"look at what {bad.origin.name} computes: a logarithm, root or quotient of 0, or an overflow"
    if bad.origin.kind == "weights":
        return "look at the step before: a gradient of a root or norm at 0, or an eps that is 0 in half precision"
    if bad.origin.kind == "target":
        return "leave out targets that are missing, or look at how they are made"
    if bad.origin.kind == "operation":
        return "keep what goes in away from 0: clamp(min=eps), log_softmax, or a mean over no less than one value"
    if bad.origin.kind == "loss":
        return "look at the targets, and for a logarithm or quotient of 0 in the loss"
    return "torch.autograd.set_detect_anomaly(True) names the operation; look at this batch and the learning rate"


def _is_hidden() -> bool:
    """Whether the loop that runs now is HF Trainer's, and set to leave bad losses out of what it logs."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code.co_filename.endswith("transformers/trainer.py"):
            arguments = getattr(frame.f_locals.get("self"), "args", None)
            if getattr(arguments, "logging_nan_inf_filter", False):
                return True
    return False
