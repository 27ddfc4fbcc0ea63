"""Checks of the comments that speak to loopkit."""

CHECKS: tuple[str, ...] = ("loopkit_plugins.checks.comments.unused_silence:UnusedSilence",)
