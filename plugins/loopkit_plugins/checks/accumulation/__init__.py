"""Checks of gradient accumulation: how micro-batches become one update."""

CHECKS: tuple[str, ...] = (
    "loopkit_plugins.checks.accumulation.accum_mean_of_means:AccumMeanOfMeans",
    "loopkit_plugins.checks.accumulation.accum_scale_wrong:AccumScaleWrong",
    "loopkit_plugins.checks.accumulation.accum_window_uneven:AccumWindowUneven",
)
