"""Checks of which parameters gradients reach."""

CHECKS: tuple[str, ...] = ()
