"""The losses of an accumulation window are not divided by its length, or divided by it twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from loopkit import Confidence, Finding, LossReading, Run, Severity, Update, Window, Windows, hookimpl

_SURE = 4  # updates after which windows have shown whether their length changes
_CLOSE = 1e-3  # constants pass through float32, and half precision is not asked about
_SAMPLED_TASKS = 4  # without a loader, two or three backwards may as well be two or three tasks


class AccumScaleWrong:
    """The gradient of an accumulation window is k times, or one k-th of, the mean over its micro-batches.

    What it looks for
        A step that used the gradients of k backwards of one call, each of another batch. The constants by which each
        loss was multiplied are read from its graph. Every one is exactly 1: nothing was divided, and the gradient is
        k times the mean. Together they are 1/k of what a mean needs: it was divided twice, by the loop and by
        a framework, or by the window's token count and by k again.

    Why that hurts
        The learning rate is k times too high or too low for SGD, and changes when k does. Adam hides it; clipping,
        weight decay and its epsilon do not: with gradients k times too large nearly every step is clipped.

    A loop that has it
        for i, (x, y) in enumerate(loader):
            criterion(model(x), y).backward()
            if (i + 1) % k == 0:
                optimizer.step()
                optimizer.zero_grad()

    The repair
        Divide each loss by k, in one place: `(loss / k).backward()`. A rate that was tuned for the sum has to be
        multiplied by k then. A sum that is meant is silenced on its line.

    Left alone
        Any other constant; sums (`reduction="sum"`), and sums divided by a count of the whole window; windows whose
        length changes; several losses of one batch, several calls, several loaders, tasks with heads of their own,
        inputs that take a gradient, graphs that are kept, LBFGS, SAM, gradient penalties; of data that came from no
        loader: two or three backwards, or losses reduced by hand, which may be tasks or episodes; a quarter of a loss
        in windows of two, which may be half of it, divided once. Under HF Trainer, which does not divide for a model
        whose `forward` takes keyword arguments, it is only said (info).

    What it costs
        Nothing beyond the reading of the loss graph: a few nodes for each backward of a window.
    """

    rule = "accum-scale-wrong"
    severity = Severity.WARNING
    confidence = Confidence.FACT

    def __init__(self) -> None:
        self._seen: dict[int, _Seen] = {}

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> Iterator[Finding]:
        """Compare what each window's losses were multiplied by with its length."""
        for window in run.instrument(Windows).of(update):
            if window.size < 2 or not window.of_micro_batches or not window.reading.stock:
                continue
            seen = self._seen.setdefault(window.site.number, _Seen())
            seen.add(window, update.number)
            if window.reading.steps >= _SURE:
                yield from self._judge(seen)

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """A run of few steps is judged by those there were."""
        for seen in self._seen.values():
            yield from self._judge(seen)

    def _judge(self, seen: _Seen) -> Iterator[Finding]:
        if seen.reported or not seen.agrees or not seen.faulty:
            return
        seen.reported = True
        yield self._finding(*seen.faulty[0])

    def _finding(self, window: Window, weight: float, number: int) -> Finding:
        k, step, place = window.size, window.step.site, window.site.place
        assert step is not None
        twice = weight < 1
        times = f"1/{round(1 / weight)} of" if twice else f"{weight:.1f} times"
        how = "each loss was divided more than once" if twice else "no loss was divided"
        trainer = window.of_hf_trainer and not twice
        return Finding(
            rule=self.rule,
            severity=Severity.INFO if trainer else self.severity,
            confidence=self.confidence,
            place=place,
            places={"backward": place, "step": step.place},
            subject=window.reading.optimizer,
            seen=f"the step at {step.place} used {k} backwards at {place}; {how}: "
            f"the gradient is {times} the mean over the window",
            why=_why_twice(window) if twice else _WHY_NOT,
            remedy=_remedy_twice(window) if twice else _REMEDY_TRAINER if trainer else _REMEDY_NOT.format(k=k),
            evidence={
                "optimizer": window.reading.optimizer,
                "micro_batches": k,
                "gradient_over_mean": weight,
                "backward_frames": [str(frame) for frame in window.site.chain],
                "step_frames": [str(frame) for frame in step.chain],
                "framework": window.framework or None,
            },
            step=number,
        )


_WHY_NOT = (
    "the learning rate is that many times too high for SGD and changes with the window's length; "
    "Adam hides it, clipping and weight decay do not"
)
_REMEDY_NOT = "divide each loss by {k} before backward, in one place, and multiply a rate tuned for the sum by {k}"
_REMEDY_TRAINER = (
    "HF Trainer leaves the division to a model that takes keyword arguments: let its loss use num_items_in_batch, "
    "or pass a compute_loss_func that does"
)


@dataclass
class _Seen:
    """What the windows of one call showed: which had a wrong scale, and whether all are of one length."""

    faulty: list[tuple[Window, float, int]] = field(default_factory=list)  # the first one
    sizes: set[int] = field(default_factory=set)
    right: bool = False
    reported: bool = False

    def add(self, window: Window, number: int) -> None:
        if len(self.sizes) < 4:
            self.sizes.add(window.size)
        weight = _wrong(window)
        if weight is None:
            # Of the first windows some losses may not have been read, which says nothing.
            self.right = self.right or None not in window.losses
        elif not self.faulty:
            self.faulty = [(window, weight, number)]

    @property
    def agrees(self) -> bool:
        """All windows are wrong, and of one length but for a tail or one that a tail leaked into."""
        return not self.right and len(self.sizes) <= 2


def _wrong(window: Window) -> float | None:
    """The weight of the mean in the window's gradient, where it is k or 1/k; None where it is right or unknown."""
    losses = [loss for loss in window.losses if loss is not None]
    if window.several_loaders or not window.alike or len(losses) < window.size:
        return None
    k = window.size
    if not any(window.reading.batches) and not window.framework and not _supervised(losses, k):
        return None
    if _undivided(losses):
        return float(k)
    weights = window.weights()
    if len(weights) != 1 or weights[0] is None or _ranks() > 1:
        return None
    parts = [share for loss in losses for share in loss.shares() if share is not None]
    if losses[0].terms[0].reduction == "sum":
        # Each a mean by hand, of its own count; or divided by the window's count and by k on top.
        own = all(abs(part - 1) < _CLOSE for part in parts)
        return weights[0] if own or abs(weights[0] * k - 1) < _CLOSE else None
    # 1/4 in a window of two is as well half of something, divided by two.
    return 1 / k if k > 2 and all(abs(part * k * k - 1) < _CLOSE for part in parts) else None


def _undivided(losses: list[LossReading]) -> bool:
    """Whether no constant stands anywhere before some mean, the same term in all losses."""
    if any(loss.factor != 1 for loss in losses):
        return False
    columns = zip(*[loss.terms for loss in losses], strict=True)
    return any(all(term.reduction == "mean" and term.factor == 1 for term in column) for column in columns)


def _supervised(losses: list[LossReading], k: int) -> bool:
    """Whether data that came from no loader are micro-batches, not tasks or episodes, as far as the losses tell."""
    kinds = {term.kind for loss in losses for term in loss.terms}
    return k >= _SAMPLED_TASKS and not kinds & {"", "Mean", "Sum"}


def _ranks() -> int:
    """How many processes share a batch: a loss may have been multiplied by their number."""
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _why_twice(window: Window) -> str:
    k = window.size
    return f"each update is {k} times smaller than meant for SGD; Adam hides it, its epsilon and weight decay do not"


def _remedy_twice(window: Window) -> str:
    if window.framework:
        who = "HF Trainer" if window.of_hf_trainer else window.framework
        return f"leave the division to {who}, which does it: hand over the loss as it is"
    return f"divide once: by {window.size}, or by the count of the whole window"
