"""Checks of optimizers: which parameters they hold, and whether they move them."""

CHECKS: tuple[str, ...] = (
    "loopkit_plugins.checks.optimizer.optimizer_recreated:OptimizerRecreated",
    "loopkit_plugins.checks.optimizer.param_in_two_optimizers:ParamInTwoOptimizers",
    "loopkit_plugins.checks.optimizer.params_not_in_optimizer:ParamsNotInOptimizer",
    "loopkit_plugins.checks.optimizer.stale_params_in_optimizer:StaleParamsInOptimizer",
)
