"""What is said once about a run: its hyperparameters, and the charts that put side by side what belongs so."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from loopkit import Finding

_OPTIONS = ("lr", "betas", "momentum", "weight_decay", "eps", "nesterov", "alpha", "rho", "amsgrad")
MOST_CHARTS = 32
"""Charts of metrics."""


def charts(metrics: Iterable[str]) -> dict[str, dict[str, list[str]]]:
    """The layout: a chart for the loss and for each metric seen of several data sets, then gradients, then the loop.

    Tags are patterns that fit every run: TensorBoard lays the layouts of all runs over each other, and a chart that
    lists other tags in another run is a second chart.

    Args:
        metrics: the names that were logged, `val/accuracy`.
    """
    splits: dict[str, set[str]] = {}
    for name in metrics:
        split, _, metric = name.partition("/")
        if metric and split != "loopkit":
            splits.setdefault(metric, set()).add(split)
    several = ["loss", *(metric for metric, found in splits.items() if len(found) > 1 and metric != "loss")]
    return {
        "train and validation": {metric: [f"^[^/]+/{re.escape(metric)}$"] for metric in several[:MOST_CHARTS]},
        "gradients": {
            "gradient norm, before and after clipping": [_exactly("train/grad_norm"), "train/grad_norm_clipped$"],
            "gradient norm by depth": ["grad_norm_by_depth/"],
            "values that are not finite": [_exactly("grads/nonfinite")],
        },
        "loop": {
            "learning rate": ["train/lr($|/)"],
            "seconds an update": ["time/"],
            "findings so far": [_exactly("loopkit/findings_so_far")],
        },
    }


def _exactly(tag: str) -> str:
    return f"{re.escape(tag)}$"


def hyperparameters(optimizer: Optimizer, models: Sequence[nn.Module], batch_size: int | None) -> dict[str, Any]:
    """What can be known of a run without being told."""
    found: dict[str, Any] = {"optimizer": type(optimizer).__name__}
    for option in _OPTIONS:
        first = "initial_lr" if option == "lr" else option  # where a scheduler has changed it already
        values = [group.get(first, group[option]) for group in optimizer.param_groups if option in group]
        distinct = list(dict.fromkeys(_plain(value) for value in values))
        if distinct and distinct != [False]:
            found[option] = distinct[0] if len(distinct) == 1 else ", ".join(map(str, distinct[:8]))
    if batch_size is not None:
        found["batch_size"] = batch_size
    trained = [model for model in models if any(True for _ in model.parameters())]
    if trained:
        parameters = {id(each): each for model in trained for each in model.parameters()}.values()
        found["model"] = ", ".join(dict.fromkeys(type(model).__name__ for model in trained))
        found["parameters"] = sum(each.numel() for each in parameters)
        found["trainable_parameters"] = sum(each.numel() for each in parameters if each.requires_grad)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, (tuple, list)):
        return ", ".join(str(_plain(each)) for each in value)
    return float(value) if hasattr(value, "item") else str(value)


def batch_size(batch: Any, loader: Any) -> int | None:
    """Samples in a batch: what the loader says, else the length of the first tensor found."""
    told = getattr(loader, "batch_size", None)
    if isinstance(told, int):
        return told
    while not hasattr(batch, "dim"):
        items = list(batch.values()) if isinstance(batch, dict) else batch
        if not isinstance(items, (list, tuple)) or not items:
            return None
        batch = items[0]
    return int(batch.shape[0]) if batch.dim() else None


def told(finding: Finding) -> str:
    """A finding as a text of its own."""
    where = f"{finding.place.file}:{finding.place.line}" if finding.place else "no single line"
    return "\n".join(
        [
            f"### {finding.severity}: {finding.rule}",
            "",
            f"`{where}` ({finding.confidence})",
            "",
            f"* **seen** {finding.seen}",
            f"* **why** {finding.why}",
            f"* **try** {finding.remedy}",
        ]
    )


def report(findings: Sequence[Finding]) -> str:
    """All that was found, at the end of a run."""
    if not findings:
        return "Nothing found."
    return "\n".join(
        f"* **{each.severity}** {each.rule} at `{each.place or 'no single line'}`, first at update {each.step}, "
        f"in {each.count} update{'s' * (each.count > 1)}: {each.seen}"
        for each in findings
    )


def not_shown(shown: Mapping[str, object], every: int) -> str:
    """Why some parameters have no histogram."""
    return (
        f"Histograms and update ratios are of {len(shown)} of {every} parameters, spread evenly over the depth of "
        f"the model; norms and counts are of all. `TensorBoard(..., parameters=N)` shows more.\n\n"
        + ", ".join(f"`{name}`" for name in shown)
    )
