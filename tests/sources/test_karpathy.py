"""The most common mistakes, and the checks of the "Recipe for Training Neural Networks", as Karpathy lists them."""

from __future__ import annotations

import pytest

from tests.sources.planted import assert_fires

MISTAKES = {
    "1 did not overfit a single batch first": ["cannot-overfit-one-batch"],
    "2 forgot to toggle train/eval mode": ["eval-in-train-mode", "train-in-eval-mode"],
    "3 forgot zero_grad before backward": ["missing-zero-grad", "zero-grad-before-step"],
    "4 softmaxed outputs into a loss that takes logits": ["double-softmax", "sigmoid-before-bce-logits"],
    "6 view where permute was meant": ["batch-cross-talk"],
    "recipe: a fixed seed": ["rng-reset-in-loop"],
    "recipe: verify the loss at init, init well": ["init-loss-off", "degenerate-init"],
    "recipe: an input-independent baseline": ["output-collapse"],
    "recipe: loss goes down": ["loss-not-decreasing"],
    "recipe: look at the data just before the net": ["input-suspicious", "labels-degenerate", "pad-mask-wrong"],
    "recipe: prediction dynamics": ["loss-unstable"],
    "recipe: use backprop to chart dependencies": ["future-leak"],
    "recipe: evaluate on the whole test set": ["eval-loader-misconfigured"],
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("mistake", "rule"), [(name, rule) for name, names in MISTAKES.items() for rule in names])
def test_is_named(mistake: str, rule: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert_fires(rule, capsys)
