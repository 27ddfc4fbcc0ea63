"""Checks of which parameters gradients reach."""

CHECKS: tuple[str, ...] = (
    "loopkit_plugins.checks.gradients.checkpoint_blocks_grad:CheckpointBlocksGrad",
    "loopkit_plugins.checks.gradients.clip_covers_wrong_params:ClipCoversWrongParams",
    "loopkit_plugins.checks.gradients.exploding_gradient:ExplodingGradient",
    "loopkit_plugins.checks.gradients.grad_path_cut:GradPathCut",
    "loopkit_plugins.checks.gradients.grads_into_unoptimized_params:GradsIntoUnoptimizedParams",
    "loopkit_plugins.checks.gradients.param_never_gets_grad:ParamNeverGetsGrad",
    "loopkit_plugins.checks.gradients.trainable_set_suspicious:TrainableSetSuspicious",
    "loopkit_plugins.checks.gradients.unregistered_params:UnregisteredParams",
    "loopkit_plugins.checks.gradients.vanishing_gradient:VanishingGradient",
)
