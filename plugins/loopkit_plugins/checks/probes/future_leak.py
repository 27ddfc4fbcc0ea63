"""A next-token model that sees the tokens it is to predict."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from loopkit import Confidence, Finding, Rehearsal, Run, Severity, Take, hookimpl, tensors

_MATERIAL = 1e-3  # of the largest output
_IGNORED = -100


class FutureLeak:
    """What a next-token model says at one position depends on later tokens.

    What it looks for
        Where the targets are the inputs, shifted by one or inside the model: on a copy in eval mode the second half
        of each sequence is replaced by other tokens, and the outputs of the first half must not change.

    Why that hurts
        The loss is wonderfully low because the answer is in the input; what is generated is useless.

    A loop that has it
        nn.TransformerEncoder(layer, 4)(embed(tokens))        # no causal mask
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())

    The repair
        Give the attention its causal mask (`is_causal=True`), and look at which axis convolutions pad.

    Left alone
        Encoders and masked language models, whose targets are not the inputs; targets that ignore the first half;
        sequences of fewer than four tokens; models whose outputs differ from call to call.

    What it costs
        A copy of the model and three forwards, once; only with `--probe`.
    """

    rule = "future-leak"
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
            if take is None:
                return None
            tokens = next((each for each in take.inputs() if _are_tokens(each)), None)
            if tokens is None or not _predicts_the_next(tokens, take):
                return None
            half = tokens.shape[1] // 2
            take.model.eval()
            first, again = take.outputs(), take.outputs()
            changed = take.outputs(lambda given: _with_other_end(given, tokens, half))
            if any(not torch.equal(one, two) for one, two in zip(first, again, strict=True)):
                run.could_not_check(self.rule, "the outputs of two equal calls differ")
                return None
            worst = max((_early(a, b, tokens, half) for a, b in zip(first, changed, strict=True)), default=0.0)
            return self._finding(module, take, half, worst) if worst > _MATERIAL else None
        return None

    def _finding(self, module: torch.nn.Module, take: Take, half: int, worst: float) -> Finding:
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=take.place,
            subject=type(module).__name__,
            seen=f"the targets are the next tokens, and changing tokens from position {half} on changed outputs "
            f"before it, by up to {worst:.2g} of the largest output (on a copy in eval mode)",
            why="the model reads the answer from its input: its loss is low, and what it generates is useless",
            remedy="give the attention a causal mask (is_causal=True), and look for means or norms over the sequence",
            evidence={"position": half, "relative": worst},
        )


def _are_tokens(given: Tensor) -> bool:
    return given.dim() == 2 and not given.is_floating_point() and given.dtype != torch.bool and given.shape[1] >= 4


def _predicts_the_next(tokens: Tensor, take: Take) -> bool:
    """Whether some other tensor holds the same tokens, shifted by one or not at all and not masked away."""
    others = [each for each in [*take.inputs(), *tensors(take.batch)] if _are_tokens(each)]
    labels = [each for each in tensors(take.kwargs.get("labels")) if each.shape == tokens.shape]
    if labels:
        kept = labels[0] != _IGNORED
        return bool((labels[0] == tokens)[kept].all()) and bool(kept[:, : tokens.shape[1] // 2].any())
    width = tokens.shape[1]
    shifted = [each for each in others if each.shape == tokens.shape and bool((each[:, :-1] == tokens[:, 1:]).all())]
    longer = [each for each in others if each.shape == (len(tokens), width + 1) and torch.equal(each[:, :-1], tokens)]
    return bool(shifted or longer) and bool((tokens != tokens[:, :1]).any())


def _with_other_end(given: Tensor, tokens: Tensor, half: int) -> Tensor:
    """Another tensor is left as it is: masks, and labels, of which only the loss is made."""
    if given.shape != tokens.shape or not torch.equal(given, tokens):
        return given
    other = given.min() + given.max() - given  # other tokens, all of which are in the vocabulary
    return torch.cat([given[:, :half], other[:, half:]], dim=1)


def _early(before: Tensor, after: Tensor, tokens: Tensor, half: int) -> float:
    if before.dim() < 3 or before.shape[:2] != tokens.shape or before.shape != after.shape:
        return 0.0
    scale = before.abs().max().clamp_min(1e-12)
    return float(((before - after).abs()[:, :half] / scale).nan_to_num(0.0).max())
