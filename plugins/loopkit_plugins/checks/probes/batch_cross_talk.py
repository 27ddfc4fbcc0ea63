"""Samples of a batch that see each other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from loopkit import Confidence, Finding, Rehearsal, Run, Severity, Take, hookimpl, tensors

_MATERIAL = 1e-3  # of the largest output; kernels may round rows of one batch differently


class BatchCrossTalk:
    """The prediction for one sample depends on the other samples of its batch.

    What it looks for
        On a copy of the model in eval mode, with the first training batch: the first sample is replaced by the
        second, and the outputs for all samples but the first are compared. They must not change.

    Why that hurts
        The model is trained on a mixture of samples: a `view` where a `permute` was meant, a softmax over the batch.
        Training works more or less; a prediction then depends on what it is batched with.

    A loop that has it
        x = x.view(time, batch, features)       # of a tensor that is (batch, time, features)

    The repair
        Use `permute` or `transpose` to move axes; look at the axis of each `reshape`, `softmax` and mean.

    Left alone
        BatchNorm in train mode (the copy is in eval mode); models whose inputs or outputs are not one row a sample
        (graphs, similarities of all pairs); batches of fewer than three samples, or not from a DataLoader; models
        whose outputs differ from call to call.

    What it costs
        A copy of the model and three forwards, once; only with `--probe`.
    """

    rule = "batch-cross-talk"
    severity = Severity.ERROR
    confidence = Confidence.PROBE

    @hookimpl
    def batch_loaded(self, run: Run, batch: Any) -> None:
        """Keep it until the model is called."""
        run.instrument(Rehearsal).loaded(batch)

    @hookimpl
    def after_forward(
        self, run: Run, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Finding | None:
        """Try it at the first training forward."""
        with run.instrument(Rehearsal).take(run, self.rule, module, args, kwargs) as take:
            if take is not None:
                return self._try(run, module, take)
        return None

    def _try(self, run: Run, module: torch.nn.Module, take: Take) -> Finding | None:
        samples, why = _samples(take)
        if not samples:
            run.could_not_check(self.rule, why)
            return None
        take.model.eval()
        first, again = take.outputs(), take.outputs()
        changed = take.outputs(_without_first)
        rows = [each.dim() > 0 and each.shape[0] == samples and each.shape[1:2] != (samples,) for each in first]
        if not any(rows) or len(first) != len(changed):
            run.could_not_check(self.rule, "the outputs are not one row a sample")
            return None
        if any(not torch.equal(one, two) for one, two in zip(first, again, strict=True)):
            run.could_not_check(self.rule, "the outputs of two equal calls differ")
            return None
        touched = [_touched(a, b) for a, b, row in zip(first, changed, rows, strict=True) if row]
        worst, share = max(touched)
        if worst <= _MATERIAL:
            return None
        return self._finding(module, take, samples, worst, share)

    def _finding(self, module: torch.nn.Module, take: Take, samples: int, worst: float, share: int) -> Finding:
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=take.place,
            subject=type(module).__name__,
            seen=f"replacing the first of {samples} samples changed the outputs of {share} other samples, by up to "
            f"{worst:.2g} of the largest output (on a copy in eval mode)",
            why="what is predicted for a sample depends on which samples it is batched with",
            remedy="look for a view or reshape where permute or transpose is meant, and for a softmax, mean or norm "
            "over the batch axis",
            evidence={"samples": samples, "changed": share, "relative": worst},
        )


def _samples(take: Take) -> tuple[int, str]:
    """How many samples the inputs are rows of; 0 with the reason where that is not sure."""
    inputs = [each for each in take.inputs() if each.dim() > 0]
    loaded = [each for each in tensors(take.batch) if each.dim() > 0]
    if not inputs or not loaded:
        return 0, "no batch of tensors from a DataLoader was seen"
    samples = inputs[0].shape[0]
    if samples < 3 or any(each.shape[0] != samples for each in [*inputs, loaded[0]]):
        return 0, "its inputs are not one row a sample, or fewer than three"
    if any(each.shape[1:2] == (samples,) and each.dim() == 2 for each in inputs):
        return 0, "an input is square: rows may be nodes of a graph"
    if all(torch.equal(each[0], each[1]) for each in inputs):
        return 0, "the first two samples are the same"
    return samples, ""


def _without_first(given: Tensor) -> Tensor:
    if given.dim() == 0 or given.shape[0] < 2:
        return given
    return torch.cat([given[1:2], given[1:]])


def _touched(before: Tensor, after: Tensor) -> tuple[float, int]:
    """By how much the other rows changed, as a share of the largest output, and how many of them."""
    if before.shape != after.shape:
        return 0.0, 0
    scale = before.abs().max().clamp_min(1e-12)
    change = ((before - after).abs()[1:].flatten(1).amax(1) / scale).nan_to_num(0.0)
    return float(change.max()), int((change > _MATERIAL).sum())
