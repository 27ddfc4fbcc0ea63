"""Checks of the order of backward, step, scheduler and zero_grad."""

CHECKS: tuple[str, ...] = (
    "loopkit_plugins.checks.order.backward_counted_twice:BackwardCountedTwice",
    "loopkit_plugins.checks.order.clip_misplaced:ClipMisplaced",
    "loopkit_plugins.checks.order.cross_optimizer_grad_leak:CrossOptimizerGradLeak",
    "loopkit_plugins.checks.order.grads_never_consumed:GradsNeverConsumed",
    "loopkit_plugins.checks.order.missing_zero_grad:MissingZeroGrad",
    "loopkit_plugins.checks.order.scheduler_before_optimizer:SchedulerBeforeOptimizer",
    "loopkit_plugins.checks.order.stale_graph_backward:StaleGraphBackward",
    "loopkit_plugins.checks.order.step_without_fresh_grad:StepWithoutFreshGrad",
    "loopkit_plugins.checks.order.zero_grad_before_step:ZeroGradBeforeStep",
)
