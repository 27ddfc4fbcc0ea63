"""Checks of the loss: what it is computed from, and how."""

CHECKS: tuple[str, ...] = ("loopkit_plugins.checks.loss.pad_mask_wrong:PadMaskWrong",)
