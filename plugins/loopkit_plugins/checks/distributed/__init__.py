"""Checks of training in several processes."""

CHECKS: tuple[str, ...] = ()
