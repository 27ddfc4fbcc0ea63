"""Checks of the schedule against the updates."""

CHECKS = (
    "loopkit_plugins.checks.scheduler.schedule_horizon_mismatch:ScheduleHorizonMismatch",
    "loopkit_plugins.checks.scheduler.scheduler_outpaces_optimizer:SchedulerOutpacesOptimizer",
)
