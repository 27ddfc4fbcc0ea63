"""The plugin that writes checkpoints, and what puts one back."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopkit import UsageError, hookimpl

from .content import random_states, restore_model, restore_random, restore_states
from .files import BEST, CheckpointError, last_name, load, remove_leavings, steps_in, write
from .seen import Seen
from .signals import Signals

if TYPE_CHECKING:
    from loopkit import Run


class Checkpoint:
    """Writes the last state of a run, and the best, to a folder.

    The files are `step-00000120.pt` (the last ones) and `best.pt`. A kill at any moment leaves the previous file
    whole; a full disk costs a checkpoint, and not the run. SIGINT and SIGTERM finish the step, write, and leave: by
    KeyboardInterrupt, or with the exit code 143. A second signal acts as usual.

    In somebody else's loop, models, optimizers, schedulers and plugins are stored, and the scaler where the loop
    calls its `unscale_`; where in the epoch the loader is, only a `Loop` knows.

    Args:
        folder: where to write; made if it is not there.
        monitor: the metric that says which state is the best, such as "val/loss"; None for no best.
        mode: "min" where lower is better, "max" where higher is.
        every: "epoch", which is also after each evaluation, or a number of executed optimizer steps.
        keep_last: so many of the last are kept, at least 1.

    Raises:
        CheckpointError: the folder cannot be written to.
        UsageError: an argument that cannot be meant.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        monitor: str | None = None,
        mode: str = "min",
        every: str | int = "epoch",
        keep_last: int = 1,
    ) -> None:
        if mode not in ("min", "max"):
            raise UsageError(f'Checkpoint: mode is "min" or "max", not {mode!r}')
        if every != "epoch" and not (isinstance(every, int) and every >= 1):
            raise UsageError(f'Checkpoint: every is "epoch" or a number of steps of 1 or more, not {every!r}')
        if keep_last < 1:
            raise UsageError(f"Checkpoint: keep_last is 1 or more, not {keep_last}")
        self.folder = Path(folder).absolute()  # a script may change directory
        self.monitor = monitor
        self.mode = mode
        self.every = every
        self.keep_last = keep_last
        self.best: float | None = None
        self.best_step = 0
        self._value: Any = None
        self._evaluating = False
        self._passes = 0
        self._written: Path | None = None
        self._due: dict[str, Any] | None = None  # the random states to be written, of a checkpoint that is due
        self._complained = False
        self._seen = Seen()
        self._signals = Signals(self._write_last)
        _try_folder(self.folder)

    # -- what is heard -----------------------------------------------------------------------------------

    @hookimpl
    def run_started(self, run: Run) -> None:
        """Take signals, and clear away what a killed run had not finished writing."""
        remove_leavings(self.folder)
        self._signals.install(run)

    @hookimpl
    def after_step(self, run: Run, optimizer: Any) -> None:
        """See whether a checkpoint is due. It is written when the update is over: a scheduler may yet advance."""
        self._seen.stepped(run, optimizer)
        if isinstance(self.every, int) and _step(run) % self.every == 0:
            self._due = random_states()  # of now: the next batch may be made before it is written
        self._signals.stepped()

    @hookimpl
    def before_forward(self, run: Run) -> None:
        """The update is over, and perhaps an epoch."""
        self._signals.begins_anew()
        if run.loop is None:
            if run.passes != self._passes and self.every == "epoch":
                self._write_last(run)
            self._passes = run.passes
            self._between(run)

    @hookimpl
    def before_step(self, run: Run) -> None:
        """The one before is over, at the latest."""
        if run.loop is None:
            self._between(run)

    @hookimpl
    def scheduler_stepped(self, scheduler: Any) -> None:
        """It is part of the state."""
        self._seen.met("schedulers", scheduler)
        self._signals.advanced()

    @hookimpl
    def gradients_unscaled(self, scaler: Any) -> None:
        """So is its scale."""
        self._seen.met("scalers", scaler)

    @hookimpl
    def evaluation_started(self) -> None:
        """What is logged counts when it is over."""
        self._evaluating = True

    @hookimpl(trylast=True)
    def metric_logged(self, run: Run, name: str, value: Any) -> None:
        """Take the monitored one. A `Loop` is between two updates when it logs the numbers of one."""
        if name == self.monitor:
            self._value = value
            if not self._evaluating:
                self._judge(run)
        if run.loop is not None and name.startswith("train/"):
            self._between(run)

    @hookimpl(trylast=True)
    def evaluation_finished(self, run: Run) -> None:
        """Write the best, after the other plugins have judged; in somebody else's loop the last too."""
        self._evaluating = False
        self._judge(run)
        if self.every == "epoch" and run.loop is None and _step(run):
            self._write_last(run)
        self._between(run)

    @hookimpl(trylast=True)
    def epoch_finished(self, run: Run) -> None:
        """Told by a `Loop`."""
        if self.every == "epoch":
            self._write_last(run)
        self._between(run)

    @hookimpl(tryfirst=True)
    def run_finished(self, run: Run) -> None:
        """Write the last state, and let signals be as they were."""
        self._signals.undo()
        if run.steps and run.ending != "failed":
            self._write_last(run)
        self._seen.release()

    def state_dict(self) -> dict[str, Any]:
        """What was best so far."""
        return {"best": self.best, "best_step": self.best_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.best, self.best_step = state["best"], state["best_step"]

    # -- writing -----------------------------------------------------------------------------------------

    def _between(self, run: Run) -> None:
        """Between two updates: what is due is written, and a signal is followed."""
        if self._due is not None:
            self._write_last(run)
        self._signals.follow(run)

    def _judge(self, run: Run) -> None:
        given, self._value = self._value, None
        if given is None:
            return
        value = float(given)
        if not math.isfinite(value):
            return
        if self.best is None or (value < self.best if self.mode == "min" else value > self.best):
            self.best, self.best_step = value, _step(run)
            self._write(run, self.folder / BEST, None)

    def _write_last(self, run: Run) -> None:
        chances, self._due = self._due, None
        path = self.folder / last_name(_step(run))
        if self._written == path or not self._write(run, path, chances):
            return
        self._written = path
        mine = [each for each in steps_in(self.folder) if each.name <= path.name]
        for each in mine[self.keep_last :]:
            each.unlink(missing_ok=True)

    def _write(self, run: Run, path: Path, chances: dict[str, Any] | None) -> bool:
        if os.environ.get("RANK", "0") != "0":
            return False  # rank 0 writes for all: their weights are the same
        left_out: list[str] = []
        with self._signals.held():
            try:
                content = self._seen.content(run, left_out)
                write(path, content | {"step": _step(run), "random": chances or random_states()})
            except (OSError, CheckpointError) as error:
                why = getattr(error, "strerror", None) or error
                self._complain(run, f"{path} was not written ({why}): training goes on, and what was there is kept")
                return False
        if left_out:
            self._complain(run, f"checkpoints leave out: {'; '.join(left_out)}")
        return True

    def _complain(self, run: Run, text: str) -> None:
        if not self._complained:
            self._complained = True
            run.say(text)


def _step(run: Run) -> int:
    return run.steps + run.step_offset


def _try_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CheckpointError(
            f"cannot write checkpoints to {folder}: {error.strerror}; name another folder"
        ) from None


def restore(
    path: str | os.PathLike[str],
    *,
    model: Any = None,
    optimizer: Any = None,
    scheduler: Any = None,
    scaler: Any = None,
    loop: Any = None,
    plugins: Sequence[Any] = (),
    random: bool = True,
) -> dict[str, Any]:
    """Put a checkpoint back into objects like those that were trained; what it holds.

    Args:
        path: a file that `Checkpoint` wrote.
        model: the model, or a list of those that were trained in the order they were first called.
        optimizer: the same of optimizers, in the order of their first steps.
        scheduler: the same of schedulers.
        scaler: the same of gradient scalers.
        loop: the `Loop`, of a checkpoint of one.
        plugins: plugins with a state, such as `EarlyStopping`; each takes that of its class.
        random: whether random generators are put back too.

    Raises:
        CheckpointError: the file is torn or foreign, or is of other objects; of another model, the keys that differ.
    """
    content, at = load(path), os.fspath(path)
    if loop is not None:
        if "loop" not in content:
            raise CheckpointError(f"{at} was not written by a Loop: give model and optimizer instead")
        loop.load_state_dict(content["loop"])
    models = _listed(model)
    if models and len(models) != len(content.get("models", [])):
        raise CheckpointError(f"{at} has {len(content.get('models', []))} models, here are {len(models)}")
    for each, saved in zip(models, content.get("models", []), strict=False):
        restore_model(each, saved, at)
    for what, given in (("optimizer", optimizer), ("scheduler", scheduler), ("scaler", scaler)):
        if given is not None:
            restore_states(_listed(given), content.get(f"{what}s", []), what, at)
    stored = list(content["plugins"])
    for plugin in plugins:
        mine = next((each for each in stored if each["class"] == type(plugin).__name__), None)
        if mine is None:
            raise CheckpointError(f"{at} has no state of a {type(plugin).__name__}")
        stored.remove(mine)
        plugin.load_state_dict(mine["state"])
    if random:
        restore_random(content["random"])
    return content


def _listed(given: Any) -> list[Any]:
    if given is None:
        return []
    return list(given) if isinstance(given, (list, tuple)) else [given]
