"""Checks of loaders, samplers, inputs and labels."""

CHECKS: tuple[str, ...] = ()
