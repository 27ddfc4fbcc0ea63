"""Checks of loaders, samplers, inputs and labels."""

CHECKS: tuple[str, ...] = (
    "loopkit_plugins.checks.data.attention_mask_missing:AttentionMaskMissing",
    "loopkit_plugins.checks.data.backward_on_eval_batch:BackwardOnEvalBatch",
    "loopkit_plugins.checks.data.dataset_barely_sampled:DatasetBarelySampled",
    "loopkit_plugins.checks.data.eval_loader_misconfigured:EvalLoaderMisconfigured",
    "loopkit_plugins.checks.data.input_suspicious:InputSuspicious",
    "loopkit_plugins.checks.data.iterable_duplicated:IterableDuplicated",
    "loopkit_plugins.checks.data.labels_degenerate:LabelsDegenerate",
    "loopkit_plugins.checks.data.loader_empty:LoaderEmpty",
    "loopkit_plugins.checks.data.loader_exhausted:LoaderExhausted",
    "loopkit_plugins.checks.data.rng_identical_across_workers:RngIdenticalAcrossWorkers",
    "loopkit_plugins.checks.data.rng_reset_in_loop:RngResetInLoop",
    "loopkit_plugins.checks.data.sampler_epoch_not_set:SamplerEpochNotSet",
    "loopkit_plugins.checks.data.train_eval_overlap:TrainEvalOverlap",
    "loopkit_plugins.checks.data.train_not_shuffled:TrainNotShuffled",
)
