"""Checks of what is saved, loaded and resumed."""

CHECKS: tuple[str, ...] = ()
