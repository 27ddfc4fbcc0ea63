"""Checks of the comments that speak to loopkit."""

CHECKS = ("loopkit_plugins.checks.comments.unused_silence:UnusedSilence",)
