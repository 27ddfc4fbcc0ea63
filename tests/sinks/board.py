"""Reading back what the TensorBoard sink wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import loopkit
from loopkit import Run
from loopkit_plugins.sinks.tensorboard import TensorBoard


class Board:
    """The log folder of one run."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        everything = {"scalars": 0, "histograms": 0, "tensors": 0}
        self.events: Any = EventAccumulator(str(folder), size_guidance=everything)
        self.events.Reload()

    def tags(self, kind: str = "scalars") -> list[str]:
        found: list[str] = self.events.Tags()[kind]
        return found

    def scalars(self, tag: str) -> dict[int, float]:
        return {event.step: event.value for event in self.events.Scalars(tag)}

    def histogram(self, tag: str) -> list[Any]:
        return [event.histogram_value for event in self.events.Histograms(tag)]

    def texts(self, tag: str) -> list[tuple[int, str]]:
        return [(event.step, event.tensor_proto.string_val[0].decode()) for event in self.events.Tensors(tag)]

    def layout(self) -> dict[str, dict[str, list[str]]]:
        from tensorboard.plugins.custom_scalar import layout_pb2

        layout: Any = layout_pb2
        last = self.events.Tensors("custom_scalars__config__")[-1]
        form = layout.Layout.FromString(last.tensor_proto.string_val[0])
        return {
            category.title: {chart.title: list(chart.multiline.tag) for chart in category.chart}
            for category in form.category
        }

    def hyperparameters(self) -> dict[str, Any]:
        from tensorboard.plugins.hparams import plugin_data_pb2

        data: Any = plugin_data_pb2
        content = self.events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        values = data.HParamsPluginData.FromString(content).session_start_info.hparams
        return {name: value.string_value or value.number_value for name, value in values.items()}


def watched(folder: Path, loop: Callable[[], Any], **options: Any) -> tuple[Board, Run]:
    """Run a loop with the sink on."""
    with loopkit.watch(skip=["console"], plugins=[TensorBoard(folder, **options)]) as run:
        loop()
    assert not run.failures
    return Board(folder), run
