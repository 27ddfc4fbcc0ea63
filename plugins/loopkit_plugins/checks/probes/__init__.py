"""Probes: extra forwards and backwards on a copy of the model, only when asked for by `--probe`."""

CHECKS: tuple[str, ...] = (
    "loopkit_plugins.checks.probes.batch_cross_talk:BatchCrossTalk",
    "loopkit_plugins.checks.probes.cannot_overfit_one_batch:CannotOverfitOneBatch",
    "loopkit_plugins.checks.probes.compile_eager_divergence:CompileEagerDivergence",
    "loopkit_plugins.checks.probes.deterministic_eval_mismatch:DeterministicEvalMismatch",
    "loopkit_plugins.checks.probes.future_leak:FutureLeak",
)
