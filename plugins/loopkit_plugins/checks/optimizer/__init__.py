"""Checks of optimizers: which parameters they hold, and whether they move them."""

CHECKS: tuple[str, ...] = ()
