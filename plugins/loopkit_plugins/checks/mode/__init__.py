"""Checks of training and evaluation mode."""

CHECKS: tuple[str, ...] = (
    "loopkit_plugins.checks.mode.eval_in_train_mode:EvalInTrainMode",
    "loopkit_plugins.checks.mode.stochastic_op_in_eval:StochasticOpInEval",
    "loopkit_plugins.checks.mode.train_in_eval_mode:TrainInEvalMode",
)
