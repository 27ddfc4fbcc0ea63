"""Checks of which parameters gradients reach."""

CHECKS: tuple[str, ...] = ("loopkit_plugins.checks.gradients.clip_covers_wrong_params:ClipCoversWrongParams",)
