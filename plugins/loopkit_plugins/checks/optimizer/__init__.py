"""Checks of optimizers: which parameters they hold, and whether they move them."""

CHECKS: tuple[str, ...] = (
    "loopkit_plugins.checks.optimizer.degenerate_init:DegenerateInit",
    "loopkit_plugins.checks.optimizer.ema_broken:EmaBroken",
    "loopkit_plugins.checks.optimizer.frozen_params_still_move:FrozenParamsStillMove",
    "loopkit_plugins.checks.optimizer.lr_write_ineffective:LrWriteIneffective",
    "loopkit_plugins.checks.optimizer.optimizer_recreated:OptimizerRecreated",
    "loopkit_plugins.checks.optimizer.param_in_two_optimizers:ParamInTwoOptimizers",
    "loopkit_plugins.checks.optimizer.params_not_in_optimizer:ParamsNotInOptimizer",
    "loopkit_plugins.checks.optimizer.params_not_updated:ParamsNotUpdated",
    "loopkit_plugins.checks.optimizer.stale_params_in_optimizer:StaleParamsInOptimizer",
    "loopkit_plugins.checks.optimizer.tying_broken_or_doubled:TyingBrokenOrDoubled",
    "loopkit_plugins.checks.optimizer.unfreeze_without_effect:UnfreezeWithoutEffect",
)
