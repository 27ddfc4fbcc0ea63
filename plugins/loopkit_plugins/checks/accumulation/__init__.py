"""Checks of gradient accumulation: how micro-batches become one update."""

CHECKS: tuple[str, ...] = ()
