"""Checks of the schedule against the updates."""

CHECKS: tuple[str, ...] = ()
