"""Checks of the loss: what it is computed from, and how."""

CHECKS: tuple[str, ...] = (
    "loopkit_plugins.checks.loss.all_labels_ignored:AllLabelsIgnored",
    "loopkit_plugins.checks.loss.kl_on_probabilities:KlOnProbabilities",
    "loopkit_plugins.checks.loss.nll_on_raw_scores:NllOnRawScores",
    "loopkit_plugins.checks.loss.pad_mask_wrong:PadMaskWrong",
    "loopkit_plugins.checks.loss.target_out_of_range:TargetOutOfRange",
)
