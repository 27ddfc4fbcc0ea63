"""Checks of training and evaluation mode."""

CHECKS: tuple[str, ...] = ("loopkit_plugins.checks.mode.eval_in_train_mode:EvalInTrainMode",)
