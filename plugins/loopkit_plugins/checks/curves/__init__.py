"""Checks of learning curves, as far as the run was told its losses, and of what losses and outputs are."""

CHECKS: tuple[str, ...] = (
    "loopkit_plugins.checks.curves.init_loss_off:InitLossOff",
    "loopkit_plugins.checks.curves.loss_not_decreasing:LossNotDecreasing",
    "loopkit_plugins.checks.curves.loss_unstable:LossUnstable",
    "loopkit_plugins.checks.curves.nonfinite_values:NonfiniteValues",
    "loopkit_plugins.checks.curves.output_collapse:OutputCollapse",
    "loopkit_plugins.checks.curves.train_val_gap:TrainValGap",
    "loopkit_plugins.checks.curves.units_dead_or_saturated:UnitsDeadOrSaturated",
    "loopkit_plugins.checks.curves.update_ratio_abnormal:UpdateRatioAbnormal",
)
