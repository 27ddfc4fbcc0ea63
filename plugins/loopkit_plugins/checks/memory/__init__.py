"""Checks of graphs and memory that are kept longer than needed."""

CHECKS: tuple[str, ...] = ("loopkit_plugins.checks.memory.loss_graph_retained:LossGraphRetained",)
