"""Checks of training and evaluation mode."""

CHECKS: tuple[str, ...] = ()
