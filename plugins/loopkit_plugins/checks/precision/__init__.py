"""Checks of mixed precision and loss scaling, and of values that are not finite."""

CHECKS: tuple[str, ...] = ()
