"""Checks of what is saved, loaded and resumed."""

CHECKS: tuple[str, ...] = (
    "loopkit_plugins.checks.resume.best_state_aliased:BestStateAliased",
    "loopkit_plugins.checks.resume.checkpoint_incomplete:CheckpointIncomplete",
    "loopkit_plugins.checks.resume.optimizer_state_misaligned:OptimizerStateMisaligned",
    "loopkit_plugins.checks.resume.pretrained_weights_not_in_use:PretrainedWeightsNotInUse",
    "loopkit_plugins.checks.resume.resume_state_inconsistent:ResumeStateInconsistent",
    "loopkit_plugins.checks.resume.resumed_rate_overwritten:ResumedRateOverwritten",
    "loopkit_plugins.checks.resume.saved_weights_empty:SavedWeightsEmpty",
)
