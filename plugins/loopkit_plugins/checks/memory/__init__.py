"""Checks of graphs and memory that are kept longer than needed."""

CHECKS: tuple[str, ...] = (
    "loopkit_plugins.checks.memory.eval_builds_graph:EvalBuildsGraph",
    "loopkit_plugins.checks.memory.graph_kept_alive_by_flag:GraphKeptAliveByFlag",
    "loopkit_plugins.checks.memory.loss_graph_retained:LossGraphRetained",
)
