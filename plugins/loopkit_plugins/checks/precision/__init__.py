"""Checks of mixed precision and loss scaling."""

CHECKS: tuple[str, ...] = (
    "loopkit_plugins.checks.precision.backward_under_autocast:BackwardUnderAutocast",
    "loopkit_plugins.checks.precision.clip_before_unscale:ClipBeforeUnscale",
    "loopkit_plugins.checks.precision.dtype_not_as_intended:DtypeNotAsIntended",
    "loopkit_plugins.checks.precision.fp16_without_scaler:Fp16WithoutScaler",
    "loopkit_plugins.checks.precision.scaler_bypassed:ScalerBypassed",
    "loopkit_plugins.checks.precision.scaler_collapse:ScalerCollapse",
    "loopkit_plugins.checks.precision.update_below_ulp:UpdateBelowUlp",
)
