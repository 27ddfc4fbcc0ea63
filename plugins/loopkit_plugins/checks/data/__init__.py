"""Checks of loaders, samplers, inputs and labels."""

CHECKS: tuple[str, ...] = (
    "loopkit_plugins.checks.data.attention_mask_missing:AttentionMaskMissing",
    "loopkit_plugins.checks.data.input_suspicious:InputSuspicious",
    "loopkit_plugins.checks.data.labels_degenerate:LabelsDegenerate",
)
