"""A model in eval mode that answers differently when asked again."""

from __future__ import annotations

from typing import Any

import torch

from loopkit import Confidence, Finding, Rehearsal, Run, Severity, Take, hookimpl


class DeterministicEvalMismatch:
    """The same batch and the same weights, in eval mode, give two answers.

    What it looks for
        On a copy of the model in eval mode: two forwards of the first training batch are compared bit for bit.

    Why that hurts
        A metric is then partly chance, and a prediction cannot be had again: dropout that is always on, a cache, a
        layer that remembers its last input.

    A loop that has it
        def forward(self, x):
            return self.head(F.dropout(x, 0.5))      # also in eval mode

    The repair
        Pass `training=self.training` to functional dropout; do not keep state from one forward to the next.

    Left alone
        Differences of rounding. Sampling and noise that are meant (a VAE, diffusion): it is only said (info).

    What it costs
        A copy of the model and two forwards, once; only with `--probe`.
    """

    rule = "deterministic-eval-mismatch"
    severity = Severity.INFO
    confidence = Confidence.PROBE

    @hookimpl
    def after_forward(
        self, run: Run, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Finding | None:
        """Try it at the first training forward."""
        with run.instrument(Rehearsal).take(run, self.rule, module, args, kwargs) as take:
            if take is None:
                return None
            take.model.eval()
            one, two = take.outputs(), take.outputs()
            if len(one) != len(two):
                return None
            apart = max((_apart(a, b) for a, b in zip(one, two, strict=True)), default=0.0)
            return self._finding(module, take, apart) if apart > 1e-5 else None
        return None

    def _finding(self, module: torch.nn.Module, take: Take, apart: float) -> Finding:
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=take.place,
            subject=type(module).__name__,
            seen=f"in eval mode two forwards of one batch differ by up to {apart:.2g} of the largest output",
            why="metrics are partly chance, and no prediction can be had again",
            remedy="look for dropout without training=self.training, for caches, and for state kept between forwards",
            evidence={"relative": apart},
        )


def _apart(one: torch.Tensor, two: torch.Tensor) -> float:
    if one.shape != two.shape or not one.numel():
        return 0.0
    scale = one.abs().max().clamp_min(1e-12)
    return float(((one - two).abs() / scale).nan_to_num(0.0).max())
