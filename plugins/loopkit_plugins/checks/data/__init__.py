"""Checks of loaders, samplers, inputs and labels."""

CHECKS: tuple[str, ...] = (
    "loopkit_plugins.checks.data.attention_mask_missing:AttentionMaskMissing",
    "loopkit_plugins.checks.data.dataset_barely_sampled:DatasetBarelySampled",
    "loopkit_plugins.checks.data.loader_empty:LoaderEmpty",
    "loopkit_plugins.checks.data.loader_exhausted:LoaderExhausted",
    "loopkit_plugins.checks.data.sampler_epoch_not_set:SamplerEpochNotSet",
)
