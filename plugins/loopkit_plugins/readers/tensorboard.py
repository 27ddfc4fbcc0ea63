"""The scalars of a TensorBoard folder, whoever wrote it. tensorboard is imported when a folder is read."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loopkit import LoopkitError

Series = list[tuple[float, float]]


def read_folder(folder: Path) -> dict[str, dict[str, Series]]:
    """Every scalar series by its tag, by the sub-folder ("." for the top) that holds the event files.

    A torn end of a file, as of a run that still writes, is left out. After a resume the later of two values at one
    step comes later in its series.

    Raises:
        LoopkitError: tensorboard is not installed, or a file is no event file.
    """
    accumulator = _accumulator()
    runs: dict[str, dict[str, Series]] = {}
    for where in sorted({path.parent for path in folder.rglob("*.tfevents.*")}):
        events = accumulator.EventAccumulator(
            str(where),
            size_guidance={"scalars": 0, "tensors": 0, "images": 1, "audio": 1, "histograms": 1, "distributions": 1},
        )
        try:
            with _quiet():
                events.Reload()
        except Exception as error:  # noqa: BLE001 - what a damaged file makes it raise differs by version
            raise LoopkitError(f"cannot read the event files in {str(where)!r}: {error}") from None
        runs[where.relative_to(folder).as_posix()] = _series(events)
    return runs


def _accumulator() -> Any:
    try:
        from tensorboard.backend.event_processing import event_accumulator
    except ImportError:
        raise LoopkitError(
            "reading a TensorBoard folder needs tensorboard: pip install 'torch-loopkit[tensorboard]'"
        ) from None
    return event_accumulator


def _series(events: Any) -> dict[str, Series]:
    tags = events.Tags()
    series = {tag: [(float(each.step), float(each.value)) for each in events.Scalars(tag)] for tag in tags["scalars"]}
    for tag in tags["tensors"]:  # TensorFlow 2 and Keras write scalars as tensors
        if events.SummaryMetadata(tag).plugin_data.plugin_name == "scalars":
            series[tag] = [(float(each.step), _value(each.tensor_proto)) for each in events.Tensors(tag)]
    return series


def _value(tensor: Any) -> float:
    from tensorboard.util import tensor_util

    return float(tensor_util.make_ndarray(tensor).item())


@contextmanager
def _quiet() -> Iterator[None]:
    """Without tensorboard's remarks on files it can read all the same."""
    logger = logging.getLogger("tensorboard")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
