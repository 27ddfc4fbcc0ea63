"""Checks of the schedule against the updates."""

CHECKS: tuple[str, ...] = (
    "loopkit_plugins.checks.scheduler.lr_lambda_absolute:LrLambdaAbsolute",
    "loopkit_plugins.checks.scheduler.lr_zero_while_training:LrZeroWhileTraining",
    "loopkit_plugins.checks.scheduler.metric_direction_wrong:MetricDirectionWrong",
    "loopkit_plugins.checks.scheduler.run_length_mismatch:RunLengthMismatch",
    "loopkit_plugins.checks.scheduler.schedule_horizon_mismatch:ScheduleHorizonMismatch",
    "loopkit_plugins.checks.scheduler.scheduler_disconnected:SchedulerDisconnected",
    "loopkit_plugins.checks.scheduler.scheduler_outpaces_optimizer:SchedulerOutpacesOptimizer",
    "loopkit_plugins.checks.scheduler.scheduler_recreated:SchedulerRecreated",
)
