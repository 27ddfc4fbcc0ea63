"""The plugin: which hook is which event of the row."""

from __future__ import annotations

import linecache
from typing import TYPE_CHECKING

import torch

from loopkit import CallSites, Kind, Trace, TracedEvent, TracedRow, hookimpl, row_of

from .shapes import Key, Shapes
from .spans import Spans

if TYPE_CHECKING:
    from loopkit import Place, Run

_TIMED = frozenset({Kind.BATCH, Kind.FORWARD, Kind.EVALUATION, Kind.BACKWARD, Kind.CLIP, Kind.STEP, Kind.ZERO_GRAD})
_EVALUATIONS = 4096  # whose times are kept


class Tracer:
    """Hears every event, and has every update told.

    Nothing is read from a device: times are those the host spent, or was held.
    """

    def __init__(self) -> None:
        self._spans = Spans()
        self._shapes = Shapes()
        self._evaluations: list[int] = []

    # -- the run -------------------------------------------------------------------------------------------

    @hookimpl
    def run_started(self, run: Run) -> None:
        """Ask for every update."""
        run.tell_next()

    @hookimpl
    def update_finished(self, run: Run) -> None:
        """Count its row, and ask for the next."""
        self._shapes.close()
        self._spans.forget()
        run.tell_next()

    def trace(self, run: Run, script: str) -> Trace:
        """What was heard so far.

        Args:
            run: the run that was traced; it may have ended.
            script: what to call it.
        """
        unfinished = row_of([entry.kind.value for entry in self._shapes.entries])
        self._shapes.flush()
        numbers = {key: number for number, key in enumerate(self._shapes.events)}
        rows = [
            TracedRow(
                tuple(
                    (word, tuple(numbers[key] for key in keys))
                    for word, keys in zip(shape.words, shape.keys, strict=True)
                ),
                shape.count,
                shape.first,
                shape.batches,
                shape.every or None,
            )
            for shape in self._shapes.by_count()
        ]
        spans = self._spans
        return Trace(
            script=script,
            folder=run.folder,
            updates=self._shapes.updates,
            seconds=(spans.last - spans.first) / 1e9 if spans.first is not None and spans.last else 0.0,
            rows=tuple(rows),
            untold=self._shapes.untold,
            events=tuple(_event(key, *counted) for key, counted in self._shapes.events.items()),
            evaluations=tuple(self._evaluations),
            unfinished=unfinished,
            device=_device_worked(),
        )

    # -- events --------------------------------------------------------------------------------------------

    @hookimpl
    def before_batch(self, run: Run) -> None:
        """The loop waits for data from now on."""
        self._begin(Kind.BATCH)

    @hookimpl
    def batch_loaded(self, run: Run) -> None:
        """It has it."""
        self._happened(run, Kind.BATCH)

    @hookimpl
    def before_forward(self, run: Run) -> None:
        """The model is called."""
        self._begin(Kind.FORWARD if torch.is_grad_enabled() else Kind.EVALUATION)

    @hookimpl
    def after_forward(self, run: Run, module: torch.nn.Module) -> None:
        """It returned. Until it is known what is trained, a criterion is heard as well."""
        if not torch.is_grad_enabled():
            self._evaluated(run)
            return
        took = self._spans.end(Kind.FORWARD)
        key = self._key(run, Kind.FORWARD)
        if next(module.parameters(), None) is not None or not self._shapes.add_to_forward(key, took):
            self._shapes.add(Kind.FORWARD, key, took)

    @hookimpl
    def before_backward(self, run: Run) -> None:
        """Backward begins: what runs inside it stands behind it in the row."""
        self._shapes.add(Kind.BACKWARD, self._key(run, Kind.BACKWARD), None)
        self._begin(Kind.BACKWARD)

    @hookimpl
    def after_backward(self) -> None:
        """It returned."""
        self._shapes.add_late(Kind.BACKWARD, self._spans.end(Kind.BACKWARD))

    @hookimpl
    def before_clip(self, run: Run) -> None:
        """The norm is made."""
        self._begin(Kind.CLIP)

    @hookimpl
    def gradients_clipped(self, run: Run) -> None:
        """Gradients are cut."""
        self._happened(run, Kind.CLIP)

    @hookimpl
    def gradients_unscaled(self, run: Run) -> None:
        """A scaler's scale is out of them."""
        self._happened(run, Kind.UNSCALE)

    @hookimpl
    def before_step(self, run: Run) -> None:
        """The optimizer begins."""
        self._begin(Kind.STEP, nests=True)

    @hookimpl
    def after_step(self, run: Run) -> None:
        """It is through."""
        self._happened(run, Kind.STEP)

    @hookimpl
    def step_skipped(self, run: Run) -> None:
        """A scaler left it out."""
        self._happened(run, Kind.SKIP)

    @hookimpl
    def scheduler_stepped(self, run: Run) -> None:
        """A rate is set."""
        self._happened(run, Kind.SCHEDULER)

    @hookimpl
    def before_zero_grad(self, run: Run) -> None:
        """A clear begins."""
        self._begin(Kind.ZERO_GRAD)

    @hookimpl
    def after_zero_grad(self, run: Run) -> None:
        """Gradients are gone."""
        self._happened(run, Kind.ZERO_GRAD)

    # -- inside --------------------------------------------------------------------------------------------

    def _begin(self, kind: Kind, *, nests: bool = False) -> None:
        self._spans.begin(kind, nests=nests)

    def _happened(self, run: Run, kind: Kind) -> None:
        took = self._spans.end(kind)
        self._shapes.add(kind, self._key(run, kind), took)

    def _evaluated(self, run: Run) -> None:
        took = self._spans.end(Kind.EVALUATION)
        began = self._shapes.evaluated(self._key(run, Kind.EVALUATION), took, self._spans.last)
        if began and len(self._evaluations) < _EVALUATIONS:
            self._evaluations.append(self._shapes.updates)

    def _key(self, run: Run, kind: Kind) -> Key:
        return kind.value, *run.instrument(CallSites).below_plugins()


def _event(key: Key, count: int, took: int) -> TracedEvent:
    word, place, framework = key
    return TracedEvent(word, place, framework, _code(place), count, took / 1e9 if word in _TIMED else None)


def _code(place: Place | None) -> str:
    """What stands in a line, without its comment."""
    return linecache.getline(place.file, place.line).split("  #")[0].strip() if place else ""


def _device_worked() -> bool:
    """Whether anything but the host may have worked."""
    return bool(torch.cuda.is_initialized() or torch.xpu.is_initialized())  # type: ignore[no-untyped-call]
