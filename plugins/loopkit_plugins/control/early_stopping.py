"""Stop when a metric no longer improves."""

from __future__ import annotations

import difflib
import math
import weakref
from typing import TYPE_CHECKING, Any

import torch

from loopkit import Models, UsageError, hookimpl

if TYPE_CHECKING:
    from loopkit import Run

_MODES = ("min", "max")
_MARGINS = ("abs", "rel")


class EarlyStopping:
    """Ends training once a metric has not improved for `patience` evaluations in a row.

    The last value of an evaluation counts, when training is about to go on; one logged outside of evaluations counts
    at once. A loop inside `with watch()` ends by an exception that the `with` swallows; under `loopkit run` its
    training loader has no more batches, and the script goes on behind its loop. NaN and infinity are no improvement.

    With several ranks each judges what it logs itself: log a number that all of them share.

    Args:
        monitor: the name of the metric, such as "val/loss", which is logged in any loop where it can be seen.
        patience: evaluations without improvement after which training ends, at least 1.
        mode: "min" where lower is better, "max" where higher is.
        min_delta: by how much a value must be better than the best one to count, at least 0.
        min_delta_mode: "abs" for a margin in the metric's unit, "rel" for a share of the best value's magnitude.
        check_finite: NaN or infinity ends training at once; otherwise it is an evaluation without improvement.
        stopping_threshold: training ends once the metric is as good as this.
        divergence_threshold: training ends once the metric is worse than this.
        start_from: so many evaluations at the beginning do not count, but for `check_finite`.
        restore_best: put the weights of the best evaluation back when training stops, or else when the run ends. They
            are copied to the CPU at each improvement.
        strict: say so if the metric is never logged, with the names that are.

    Raises:
        UsageError: an argument that cannot be meant.

    Attributes:
        best: the best value so far; None before the first.
        best_step: executed optimizer steps when it was measured.
        wait: evaluations since then.
        reason: why training was stopped; None if it was not.
    """

    every_rank = True  # one rank that stops alone would leave the others waiting for it

    def __init__(
        self,
        monitor: str,
        patience: int = 3,
        mode: str = "min",
        min_delta: float = 0.0,
        min_delta_mode: str = "abs",
        check_finite: bool = True,
        stopping_threshold: float | None = None,
        divergence_threshold: float | None = None,
        start_from: int = 0,
        restore_best: bool = False,
        strict: bool = True,
    ) -> None:
        if mode not in _MODES:
            raise UsageError(f'EarlyStopping: mode is "min" or "max", not {mode!r}')
        if min_delta_mode not in _MARGINS:
            raise UsageError(f'EarlyStopping: min_delta_mode is "abs" or "rel", not {min_delta_mode!r}')
        if patience < 1:
            raise UsageError(f"EarlyStopping: patience is 1 or more, not {patience}")
        if not min_delta >= 0:
            raise UsageError(f"EarlyStopping: min_delta is 0 or more, not {min_delta}: `mode` says what is better")
        self.monitor = monitor
        self.patience = patience
        self.mode = mode
        self.min_delta = min_delta
        self.min_delta_mode = min_delta_mode
        self.check_finite = check_finite
        self.stopping_threshold = stopping_threshold
        self.divergence_threshold = divergence_threshold
        self.start_from = start_from
        self.restore_best = restore_best
        self.strict = strict
        self._loaded = False
        self._reset()

    def _reset(self) -> None:
        self.best: float | None = None
        self.best_step = 0
        self.wait = 0
        self.seen = 0
        self.reason: str | None = None
        self._evaluating = False
        self._value: tuple[Any, int] | None = None  # of the evaluation that goes on, and its step
        self._complained = False
        self._weights: list[tuple[weakref.ref[torch.nn.Module], dict[str, Any]]] = []
        self._restored_at = -1

    # -- what is heard -----------------------------------------------------------------------------------

    @hookimpl
    def run_started(self) -> None:
        """Begin anew, unless a state was loaded for this run."""
        if not self._loaded:
            self._reset()
        self._loaded = False

    @hookimpl
    def evaluation_started(self) -> None:
        """Values count when it is over."""
        self._evaluating = True

    @hookimpl
    def metric_logged(self, run: Run, name: str, value: Any, step: int) -> None:
        """Take the monitored one."""
        if name != self.monitor:
            return
        self._value = value, step
        if not self._evaluating:
            self._judge(run)

    @hookimpl
    def evaluation_finished(self, run: Run) -> None:
        """Judge the evaluation."""
        self._evaluating = False
        if self._value is not None:
            self._judge(run)
        elif self.strict and not self.seen and not self._complained and run.logged:
            self._complained = True
            run.say(self._missing(run))

    @hookimpl(tryfirst=True)
    def run_finished(self, run: Run) -> None:
        """Say if there was nothing to judge; restore the best weights."""
        if self._weights and self._restored_at != run.steps:
            self._restore(run)
        self._weights = []
        if self.strict and not self.seen:
            run.could_not_check("early-stopping", self._missing(run))

    # -- what is kept ------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Counter and best, as plain numbers."""
        return {"best": self.best, "best_step": self.best_step, "wait": self.wait, "seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there in the next run, or in the one that is open."""
        self._reset()
        self.best, self.best_step = state["best"], state["best_step"]
        self.wait, self.seen = state["wait"], state["seen"]
        self._loaded = True

    # -- judging -----------------------------------------------------------------------------------------

    def _judge(self, run: Run) -> None:
        if self._value is None or self.reason is not None:
            return
        (given, step), self._value = self._value, None
        value = float(given)
        self._loaded = False
        reason = self.judge(value, step)
        if reason is None:
            if self.restore_best and self.wait == 0 and self.seen > self.start_from:
                self._keep(run)
            return
        if self.restore_best and self.best_step == step and self.wait == 0:
            self._keep(run)  # it stops because it is good enough
        self.reason = reason
        if not run.stops_softly:
            self._restore(run)  # an exception ends the loop now
        run.stop(reason)
        if not run.ran_on:
            self._restore(run)

    def judge(self, value: float, step: int) -> str | None:
        """Take one more value; why training is to stop, or None.

        Args:
            value: of the monitored metric.
            step: executed optimizer steps when it was measured.
        """
        name = self.monitor
        self.seen += 1
        if not math.isfinite(value) and self.check_finite:
            return f"{name} is {value} at step {step}"
        if self.seen <= self.start_from:
            return None
        sign = 1 if self.mode == "min" else -1
        good, bad = self.stopping_threshold, self.divergence_threshold
        if good is not None and sign * value <= sign * good:
            self._improve(value, step)
            return f"{name} is {value:.6g} at step {step}, as good as the stopping threshold {good:g}"
        if bad is not None and sign * value > sign * bad:
            return f"{name} is {value:.6g} at step {step}, worse than the divergence threshold {bad:g}"
        if self._is_better(value):
            self._improve(value, step)
            return None
        self.wait += 1
        return self._impatient(value, step) if self.wait >= self.patience else None

    def _is_better(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        if self.best is None:
            return True
        margin = self.min_delta * (abs(self.best) if self.min_delta_mode == "rel" else 1.0)
        return value < self.best - margin if self.mode == "min" else value > self.best + margin

    def _improve(self, value: float, step: int) -> None:
        if math.isfinite(value):
            self.best, self.best_step, self.wait = value, step, 0

    def _impatient(self, value: float, step: int) -> str:
        times = f"{self.wait} evaluation{'s' * (self.wait != 1)}"
        if self.best is None:
            return f"{self.monitor} was not finite in {times}, and is {value:.6g} at step {step}"
        by = ""
        if self.min_delta:
            by = f" by {self.min_delta:.0%}" if self.min_delta_mode == "rel" else f" by {self.min_delta:g}"
        best = f"{self.best:.6g} at step {self.best_step}"
        return f"{self.monitor} did not improve{by} in {times}: best {best}, now {value:.6g} at step {step}"

    def _missing(self, run: Run) -> str:
        near = difflib.get_close_matches(self.monitor, list(run.logged), n=1, cutoff=0.5)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        names = ", ".join(repr(name) for name in sorted(run.logged)) or "nothing"
        return f"EarlyStopping monitors {self.monitor!r}, which is not logged; logged is {names}{meant}"

    # -- weights -----------------------------------------------------------------------------------------

    def _keep(self, run: Run) -> None:
        models = [each for each in run.instrument(Models).roots() if any(p.requires_grad for p in each.parameters())]
        self._weights = [(weakref.ref(each), {k: _copy(v) for k, v in each.state_dict().items()}) for each in models]

    def _restore(self, run: Run) -> None:
        for alive, weights in self._weights:
            model = alive()
            if model is not None:
                model.load_state_dict(weights)
        if self._weights:
            self._restored_at = run.steps


def _copy(value: Any) -> Any:
    return value.detach().to("cpu", copy=True) if isinstance(value, torch.Tensor) else value
