"""Checks of training in several processes."""

CHECKS: tuple[str, ...] = (
    "loopkit_plugins.checks.distributed.ddp_forward_bypassed:DdpForwardBypassed",
    "loopkit_plugins.checks.distributed.eval_sharding_biased:EvalShardingBiased",
    "loopkit_plugins.checks.distributed.no_sync_misuse:NoSyncMisuse",
    "loopkit_plugins.checks.distributed.replicas_diverged:ReplicasDiverged",
    "loopkit_plugins.checks.distributed.same_data_on_every_rank:SameDataOnEveryRank",
    "loopkit_plugins.checks.distributed.wrapped_params_changed:WrappedParamsChanged",
)
