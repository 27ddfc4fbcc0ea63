"""Checks of graphs and memory that are kept longer than needed."""

CHECKS: tuple[str, ...] = ()
