"""Checks of learning curves, as far as the run was told its losses (`loopkit.log`, `Loop`)."""

CHECKS: tuple[str, ...] = (
    "loopkit_plugins.checks.curves.loss_not_decreasing:LossNotDecreasing",
    "loopkit_plugins.checks.curves.loss_unstable:LossUnstable",
    "loopkit_plugins.checks.curves.nonfinite_values:NonfiniteValues",
    "loopkit_plugins.checks.curves.train_val_gap:TrainValGap",
)
