"""Checks of loaders, samplers, inputs and labels."""

CHECKS: tuple[str, ...] = ("loopkit_plugins.checks.data.attention_mask_missing:AttentionMaskMissing",)
