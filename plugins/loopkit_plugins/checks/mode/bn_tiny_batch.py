"""Batch normalisation is trained on batches of one or two samples."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Finding, Modes, Run, Severity, TrainReading, hookimpl

_TINY = 2
_MANY = 256
"""Values a channel from which on the statistics of one sample are no mere noise."""
_FEW = 32
"""Values a channel below which those of two samples are."""
_LOOKS = 3


class BnTinyBatch:
    """Batch normalisation takes its statistics from one or two samples.

    What it looks for
        Batch normalisations in the graph of the loss that used the statistics of their batch, and whose input had a
        first dimension of 1 or 2, as had the model's: in three of the updates looked at, and in most. A warning where
        a channel has two values in all; where two samples have fewer than 32 values a channel; and where one sample
        has fewer than 256 and the model is evaluated with its running statistics. Else info.

    Why that hurts
        The statistics are noise. Of one sample, they take away what tells it from others, and the running averages
        that evaluation uses describe no sample: train and validation loss disagree. Two values a channel become +1
        and -1, whatever they were.

    A loop that has it
        loader = DataLoader(images, batch_size=1, shuffle=True)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), ...)

    The repair
        Use larger batches (accumulating gradients does not make them larger), `SyncBatchNorm` over several devices,
        or `GroupNorm` or `InstanceNorm2d`, which ask for no batch.

    Left alone
        A small last batch of an epoch; batch normalisation in evaluation mode; `SyncBatchNorm`, which counts over all
        ranks; other norms; inputs whose first dimension is not that of the batch. Large maps are info.

    What it costs
        Nothing beyond the walk of the loss graph, which is made in the first updates and then ever more rarely.
    """

    rule = "bn-tiny-batch"
    severity = Severity.WARNING
    confidence = Confidence.FACT

    def __init__(self) -> None:
        self._last = 0
        self._looks: dict[str, tuple[int, int]] = {}
        self._tiny: dict[str, TrainReading] = {}
        self._said: set[str] = set()

    @hookimpl
    def mode_changed(self) -> None:
        """Heard so that modes are followed."""

    @hookimpl
    def update_finished(self, run: Run) -> Iterator[Finding]:
        """Count the updates with tiny batches, and warn where they do harm."""
        yield from self._judge(run, final=False)

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Say what was seen, harm or not."""
        yield from self._judge(run, final=True)

    def _judge(self, run: Run, *, final: bool) -> Iterator[Finding]:
        modes = run.instrument(Modes)
        for reading in modes.trainings(self._last):
            self._last = reading.number
            if reading.owned and reading.norms:
                tiny, looks = self._looks.get(reading.model, (0, 0))
                is_tiny = _batch(reading) <= _TINY and reading.given <= _TINY
                self._looks[reading.model] = tiny + is_tiny, looks + 1
                if is_tiny:
                    self._tiny[reading.model] = reading
        for model, reading in list(self._tiny.items()):
            tiny, looks = self._looks[model]
            if tiny < _LOOKS or 4 * tiny < 3 * looks or model in self._said:
                continue
            harmful = _is_harmful(reading, run, final=final)
            if harmful or final:
                self._said.add(model)
                yield self._finding(reading, Severity.WARNING if harmful else Severity.INFO, tiny, looks)

    def _finding(self, reading: TrainReading, severity: Severity, tiny: int, looks: int) -> Finding:
        batch, values = _batch(reading), _values(reading)
        samples = "one sample" if batch == 1 else f"{batch} samples"
        return Finding(
            rule=self.rule,
            severity=severity,
            confidence=self.confidence,
            place=reading.forward.place,
            places={"forward": reading.forward.place},
            subject=reading.model,
            seen=f"batch normalisation in {reading.model} was trained on {samples} at a time (batch size {batch}), "
            f"with {values} values a channel at the least, in {tiny} of the {looks} updates looked at",
            why="the statistics are noise: they take away what tells the sample from others, and evaluation uses "
            "running averages of them that fit no sample",
            remedy="use a larger batch_size (accumulation does not count), SyncBatchNorm, GroupNorm or InstanceNorm",
            evidence={
                "model": reading.model,
                "batch_size": batch,
                "values_per_channel": values,
                "layers": len(reading.norms),
                "frames": [str(place) for place in reading.forward.chain],
                "framework": str(reading.forward.framework) if reading.forward.framework else None,
            },
            step=reading.steps,
        )


def _batch(reading: TrainReading) -> int:
    return min(batch for batch, _ in reading.norms)


def _values(reading: TrainReading) -> int:
    return min(values for _, values in reading.norms)


def _is_harmful(reading: TrainReading, run: Run, *, final: bool) -> bool:
    values = _values(reading)
    if values <= _TINY:
        return True
    if _batch(reading) > 1:
        return values < _FEW
    evaluated = run.instrument(Modes).forwards(0, final=final)
    return values < _MANY and any(each.model == reading.model and not each.training for each in evaluated)
