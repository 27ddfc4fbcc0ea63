"""What is written, in TensorBoard's own form: each function makes a `Summary`, on the writing thread."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

BUCKETS = 60


def _torch() -> Any:
    return importlib.import_module("torch.utils.tensorboard.summary")


def scalars(values: Iterable[tuple[str, float]]) -> Any:
    """Several scalars of one step as one record."""
    summary: Any = importlib.import_module("tensorboard.compat.proto.summary_pb2").Summary()
    for tag, value in values:
        summary.value.add(tag=tag, simple_value=value)
    return summary


def histograms(samples: Iterable[tuple[str, Tensor]], scale: float = 1.0) -> Any:
    """A histogram for each sample, of its finite values: one NaN would leave TensorBoard with none.

    Args:
        samples: tags and values, on the host.
        scale: what the values are multiplied by.
    """
    summary: Any = importlib.import_module("tensorboard.compat.proto.summary_pb2").Summary()
    for tag, values in samples:
        summary.value.extend(_histogram(tag, values, scale))
    return summary


def _histogram(tag: str, values: Tensor, scale: float) -> Sequence[Any]:
    import numpy as np

    numbers = values.numpy().astype("float64") * scale
    numbers = numbers[np.isfinite(numbers)]
    if not numbers.size:
        return ()
    low, high = float(numbers.min()), float(numbers.max())
    narrow = max(abs(low), abs(high), 1e-6) * 1e-3  # all the same: a bar, not a bucket as wide as 1
    bounds = (low, high) if high - low > narrow * 1e-3 else (low - narrow, high + narrow)
    counts, edges = np.histogram(numbers, bins=BUCKETS, range=bounds)
    made = _torch().histogram_raw(
        tag,
        *bounds,
        numbers.size,
        float(numbers.sum()),
        float((numbers**2).sum()),
        edges[1:].tolist(),
        counts.tolist(),
    )
    found: Sequence[Any] = made.value
    return found


def text(tag: str, markdown: str) -> Any:
    """A text, under just this tag: torch would put one more word at its end."""
    made = _torch().text(tag, markdown)
    made.value[0].tag = tag
    return made


def layout(charts: Mapping[str, Mapping[str, Sequence[str]]]) -> Any:
    """The page of custom scalars: categories, their charts, and for each the patterns of tags it shows."""
    form = {
        category: {title: ["Multiline", list(tags)] for title, tags in group.items()}
        for category, group in charts.items()
    }
    return _torch().custom_scalars(form)


def hyperparameters(values: Mapping[str, Any], metrics: Iterable[str], part: int) -> Any:
    """The run as a line of the page of hyperparameters.

    Args:
        values: names and values.
        metrics: tags whose last values stand beside them.
        part: 0 says what the page shows, 1 begins the run, 2 ends it.
    """
    return _torch().hparams(dict(values), dict.fromkeys(metrics, 0.0))[part]


def table(values: Mapping[str, Any]) -> str:
    """Names and values as a table."""
    rows = [f"| {name} | {_cell(value)} |" for name, value in values.items()]
    return "\n".join(["| | |", "|---|---|", *rows])


def _cell(value: Any) -> str:
    told = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return told.replace("|", "\\|")
