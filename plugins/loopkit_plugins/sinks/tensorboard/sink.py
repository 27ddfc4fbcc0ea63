"""The plugin: which event leads to which reading, and under which tag it is written."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from loopkit import Finding, Models, Run, Update, UsageError, hookimpl

from . import pages, summaries
from .clock import Clock
from .losses import Losses
from .names import tag
from .optimizers import Clip, Scalars, Watched
from .readings import is_capturing, numbers
from .writer import Writer, claim, require

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

SO_FAR = "loopkit/findings_so_far"
_MOST_CLIPS = 8
_MOST_METRICS = 512
"""Metrics on the device that wait for the next reading."""


class TensorBoard:
    """Writes what TensorBoard shows of a run. The x axis is the number of executed optimizer updates.

    The tags are listed in the package's docstring. A metric that the script logs under one of their names replaces
    ours. The second optimizer of a run has `train/lr/optimizer1`, and so on.

    What it costs: what is read, is read on a schedule, in one transfer from the device each; between, the losses are
    added up where they are. The early readings of ratios and histograms are at updates 1, 3, 10, 30, 100 and 300.
    Under torchrun only rank 0 writes, and of a tensor that is spread over ranks it shows its own part.

    Args:
        log_dir: where to write; a run that finds another one there makes a folder `run-2` in it.
        every: updates between two readings of scalars.
        ratios_every: updates between two readings of update ratios; None for none.
        histograms_every: updates between two histograms; None for none.
        parameters: how many parameters have histograms and ratios, at most.

    Raises:
        UsageError: TensorBoard is not installed, nothing can be written there, or a number is less than 1.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str],
        *,
        every: int = 10,
        ratios_every: int | None = 50,
        histograms_every: int | None = 500,
        parameters: int = 64,
    ) -> None:
        given = {"every": every, "ratios_every": ratios_every, "histograms_every": histograms_every}
        for name, number in (given | {"parameters": parameters}).items():
            if number is not None and number < 1:
                raise UsageError(f"TensorBoard's {name} takes a number of 1 or more, not {number}")
        require()
        self.log_dir = Path(log_dir).absolute()
        self._folder: Path | None = claim(self.log_dir)
        self._schedules = (every, ratios_every, histograms_every, parameters)
        self._writer: Writer | None = None
        self._begin()

    def _begin(self) -> None:
        """Know nothing, as at the start of a run."""
        self._clock = Clock()
        self._losses = Losses()
        self._optimizers: list[Watched] = []
        self._by_id: dict[int, Watched] = {}
        self._clips: list[Clip] = []
        self._scales: dict[int, Tensor] = {}
        self._held: list[tuple[str, float, int]] = []  # losses that wait for the length of their window
        self._waiting: list[tuple[str, Tensor, int]] = []  # metrics on a device
        self._metrics: dict[str, None] = {}
        self._layout: tuple[str, ...] | None = None
        self._batch_size: int | None = None
        self._skipped = 0
        self._marked = self._found = 0
        self._described = False

    # -- the run -------------------------------------------------------------------------------------------

    @hookimpl
    def run_started(self) -> None:
        """Begin the file."""
        self._written()

    @hookimpl(trylast=True)
    def run_finished(self, run: Run) -> None:
        """Write what waits, the report, and end the file."""
        self._tell_losses()
        self._read_metrics()
        self._lay_out()
        self._add(run.steps, partial(summaries.text, "loopkit/report", pages.report(run.findings)))
        if self._writer is not None:
            self._writer.close()
        self._writer = self._folder = None
        self._begin()

    def _written(self) -> Writer | None:
        """Where to write; None on other ranks than the first. Made at the first event: a watch may join late."""
        if self._writer is None and os.environ.get("RANK", "0") == "0":
            self._writer = Writer(self._folder or claim(self.log_dir))
        return self._writer

    def _add(self, step: int, make: Any) -> None:
        writer = self._written()
        if writer is not None:
            writer.add(step, make)

    def _scalars(self, step: int, values: list[tuple[str, float]]) -> None:
        """Write numbers, but for those that the script logs itself."""
        ours = [(name, value) for name, value in values if name not in self._metrics]
        if ours:
            self._add(step, partial(summaries.scalars, ours))

    # -- events of an update -------------------------------------------------------------------------------

    @hookimpl
    def batch_loaded(self, batch: Any, loader: Any) -> None:
        """Take the time, and once the batch size."""
        self._clock.batch()
        if self._batch_size is None:
            self._batch_size = pages.batch_size(batch, loader)

    @hookimpl
    def before_forward(self) -> None:
        """Take the time."""
        self._clock.forward(torch.is_grad_enabled())

    @hookimpl
    def before_backward(self, loss: Any) -> None:
        """Add the loss to the others, without reading it."""
        if self._held:
            self._tell_losses()
        if not is_capturing():
            self._losses.add(loss)
        self._clock.backward_began()

    @hookimpl
    def after_backward(self) -> None:
        """Take the time."""
        self._clock.backward_ended()

    @hookimpl
    def gradients_clipped(self, run: Run, parameters: list[Tensor], limit: float, total_norm: Any) -> None:
        """Note what was clipped, if a reading is near."""
        if all(not each.due(run.steps + 1) for each in self._optimizers) and self._optimizers:
            return
        total = total_norm.detach() if isinstance(total_norm, Tensor) else None
        if total is not None and hasattr(total, "to_local"):
            total = None  # of a norm that is spread over ranks, this one's part says nothing
        clip = Clip(frozenset(map(id, parameters)), limit, total)
        self._clips = [*self._clips[1 - _MOST_CLIPS :], clip]

    @hookimpl
    def gradients_unscaled(self, optimizer: Optimizer, scaler: Any) -> None:
        """Note what the losses of this update were multiplied with."""
        scale = getattr(scaler, "_scale", None)
        if isinstance(scale, Tensor):
            self._scales[id(optimizer)] = scale

    @hookimpl
    def step_skipped(self, run: Run, optimizer: Optimizer) -> None:
        """Count it. Its losses and clips belong to no update."""
        self._skipped += 1
        self._losses.take(None)
        self._clips.clear()
        self._scales.pop(id(optimizer), None)
        self._scalars(run.steps, [("train/skipped_steps", float(self._skipped))])

    @hookimpl
    def before_step(self, run: Run, optimizer: Optimizer) -> None:
        """Remember the weights, if their change is to be read."""
        watched = self._watched(optimizer)
        if watched.ratios.due(run.steps + 1) and not is_capturing():
            watched.remember_weights(run.instrument(Models))
        self._clock.step_began()

    @hookimpl
    def after_step(self, run: Run, optimizer: Optimizer) -> None:
        """Read what is due."""
        self._clock.step_ended()
        if is_capturing():
            return
        watched, inside = self._watched(optimizer), getattr(optimizer, "grad_scale", None)
        scale = self._scales.pop(id(optimizer), None)
        inside = inside if isinstance(inside, Tensor) else None  # a fused optimizer divides by it itself
        watched.add_loss(*self._losses.take(scale if scale is not None else inside))
        if watched.due(run.steps):
            self._read(run, watched, inside)
            self._clock.leave_out()

    @hookimpl
    def update_finished(self, update: Update) -> None:
        """Learn by what the losses of a window are divided."""
        self._losses.learn(update)

    def _watched(self, optimizer: Optimizer) -> Watched:
        """What is kept of an optimizer. One that takes the place of another that is gone has its tags."""
        known = self._by_id.get(id(optimizer))
        if known is not None and known.optimizer() is optimizer:
            return known
        free = [at for at, each in enumerate(self._optimizers) if each.optimizer() is None]
        number = free[0] if free else len(self._optimizers)
        made = Watched(optimizer, number, *self._schedules)
        self._optimizers[number : number + 1] = [made]
        self._by_id = {id(each.optimizer()): each for each in self._optimizers}
        return made

    # -- readings ------------------------------------------------------------------------------------------

    def _read(self, run: Run, watched: Watched, scale: Tensor | None) -> None:
        step, models = run.steps, run.instrument(Models)
        if not self._described:
            self._describe(step, watched, models)
        values: list[tuple[str, float]] = []
        if watched.scalars.due(step):
            found = watched.read_scalars(models, self._clips, scale)
            values += self._told(watched, found, step)
            values += self._clock.take()
            watched.scalars.done(step)
        self._clips.clear()
        if watched.ratios.due(step):
            values += watched.read_ratios(models)
            watched.ratios.done(step)
        self._scalars(step, values)
        if watched.histograms.due(step):
            grads, weights = watched.read_samples(models)
            factor = 1.0 if scale is None else 1.0 / numbers([scale])[0]
            self._add(step, partial(summaries.histograms, grads, factor))
            self._add(step, partial(summaries.histograms, weights))
            watched.histograms.done(step)
        self._read_metrics()
        self._lay_out()

    def _told(self, watched: Watched, found: Scalars, step: int) -> list[tuple[str, float]]:
        """The numbers of one reading, with their tags. The loss waits: what divides it is known a little later."""
        if found.loss is not None:
            self._held.append((watched.tag("train/loss"), found.loss, step))
        lr = watched.tag("train/lr")
        values = [(lr if len(found.lr) == 1 else f"{lr}/group{i}", rate) for i, rate in enumerate(found.lr)]
        values.append((watched.tag("train/grad_norm"), found.before))
        values.append((watched.tag("train/grad_norm_clipped"), found.after))
        values.append((watched.tag("grads/nonfinite"), found.nonfinite))
        for layer, norm in (found.layers or {}).items():
            name = watched.tag(f"grad_norm_by_depth/{layer}")
            values.append((name, norm))
        values.append((SO_FAR, self._found))
        return [(name, float(value)) for name, value in values if isinstance(value, (int, float))]

    def _tell_losses(self) -> None:
        held, self._held = self._held, []
        for name, loss, step in held:
            self._scalars(step, [(name, loss * self._losses.divisor)])

    def _describe(self, step: int, watched: Watched, models: Models) -> None:
        """What is said once: hyperparameters, and which parameters are shown."""
        self._described = True
        optimizer = watched.optimizer()
        if optimizer is None:
            return
        roots: list[nn.Module] = models.roots()
        values = pages.hyperparameters(optimizer, roots, self._batch_size)
        self._add(step, partial(summaries.text, "loopkit/hyperparameters", summaries.table(values)))
        for part in range(3):
            self._add(step, partial(summaries.hyperparameters, values, ("train/loss", "val/loss"), part))
        every, shown = watched.named(models), watched.shown(models)
        if len(shown) < len(every):
            words = pages.not_shown({each.name: None for each in shown}, len(every))
            self._add(step, partial(summaries.text, "loopkit/not_shown", words))

    def _lay_out(self) -> None:
        """Write the layout of the charts, and again when there are more: TensorBoard goes by the last."""
        layout = tuple(self._metrics)
        if layout != self._layout:
            self._layout = layout
            self._add(0, partial(summaries.layout, pages.charts(layout)))

    # -- metrics and findings ------------------------------------------------------------------------------

    @hookimpl
    def metric_logged(self, name: str, value: Any, step: int) -> None:
        """Write a number; one on a device waits for the next reading."""
        name = tag(name)
        self._metrics[name] = None
        if not isinstance(value, Tensor):
            self._add(step, partial(summaries.scalars, [(name, float(value))]))
        elif value.numel() == 1 and not is_capturing():
            self._waiting.append((name, value.detach().clone(), step))
            if len(self._waiting) >= _MOST_METRICS:
                self._read_metrics()

    @hookimpl
    def evaluation_finished(self) -> None:
        """Read the metrics that wait."""
        self._read_metrics()
        self._lay_out()

    def _read_metrics(self) -> None:
        waiting, self._waiting = self._waiting, []
        read = numbers([value for _, value, _ in waiting])
        for (name, _, step), value in zip(waiting, read, strict=True):
            self._add(step, partial(summaries.scalars, [(name, value)]))

    @hookimpl
    def finding_reported(self, run: Run, finding: Finding) -> None:
        """Write a finding as text, and mark its update."""
        step = run.steps if finding.step is None else finding.step
        self._add(step, partial(summaries.text, "loopkit/findings", pages.told(finding)))
        self._found += 1
        self._marked = max(step, self._marked)
        self._add(self._marked, partial(summaries.scalars, [(SO_FAR, float(self._found))]))
