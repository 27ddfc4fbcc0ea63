"""Checks of training and evaluation mode."""

CHECKS: tuple[str, ...] = (
    "loopkit_plugins.checks.mode.bn_double_update:BnDoubleUpdate",
    "loopkit_plugins.checks.mode.bn_tiny_batch:BnTinyBatch",
    "loopkit_plugins.checks.mode.dropout_extreme:DropoutExtreme",
    "loopkit_plugins.checks.mode.eval_in_train_mode:EvalInTrainMode",
    "loopkit_plugins.checks.mode.frozen_bn_stats_move:FrozenBnStatsMove",
    "loopkit_plugins.checks.mode.reference_model_in_train_mode:ReferenceModelInTrainMode",
    "loopkit_plugins.checks.mode.stochastic_op_in_eval:StochasticOpInEval",
    "loopkit_plugins.checks.mode.train_in_eval_mode:TrainInEvalMode",
)
