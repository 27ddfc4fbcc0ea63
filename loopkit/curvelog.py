"""The numbers a run was told (`loopkit.log`), kept as curves and read once when it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loopkit.callsite import CallSites
from loopkit.curvefit import Point
from loopkit.curves import read_curves

if TYPE_CHECKING:
    from loopkit.curvereading import CurveKind, CurveReading
    from loopkit.finding import Place
    from loopkit.holdings import Owner
    from loopkit.run import Run

TRAIN, VALIDATION, RATE = "train/loss", "val/loss", "train/lr"
"""What `Loop` logs, and whoever wants its curves to be read."""
_BATCH = 64  # tensors that wait before they are read, all in one transfer
_MOST = 4096  # points of a curve; then every other one goes
_SITES = 86  # no kind of torch call has this number


class CurveLog:
    """Training loss, validation loss and learning rate of one run, as they were logged. An instrument: checks hand on
    what they hear, and what several of them hand on is one point.

    A 0-dim tensor is copied on its own device when it is logged (its owner may go on adding to it) and read with 64
    others in one transfer, so a curve logged on an accelerator waits for it once in 64 values.

    A program that trains one model after another (folds, a search) logs one curve after another under one name. Only
    the last is kept: what they look like together says nothing.

    Attributes:
        places: the user's line that logged a curve first, by its name.
        since: the first step of the last training.
    """

    def __init__(self) -> None:
        self.places: dict[str, Place] = {}
        self.since = 0
        self._curves: dict[str, list[Point]] = {TRAIN: [], VALIDATION: [], RATE: []}
        self._strides = dict.fromkeys(self._curves, 1)
        self._told = dict.fromkeys(self._curves, 0)
        self._waiting: list[tuple[str, int, Any]] = []
        self._last: tuple[str, int, int] | None = None
        self._readings: list[CurveReading] | None = None
        self._steps: dict[Owner, int] = {}  # of each optimizer, when something was logged last

    def hear(self, run: Run, name: str, value: Any, step: int) -> None:
        """Take what `metric_logged` told; of other names than `TRAIN`, `VALIDATION` and `RATE` nothing is kept."""
        this = (name, step, id(value))
        if name not in self._curves or this == self._last:
            return
        self._last = this
        if name != RATE:
            self._follow(run, step)
        if self._told[name] == 0:
            chain = run.instrument(CallSites).here(_SITES, brief=True).chain
            if chain:
                self.places[name] = chain[0]
        self._told[name] += 1
        if (self._told[name] - 1) % self._strides[name]:
            return
        self._readings = None
        if hasattr(value, "detach"):
            self._waiting.append((name, step, value.detach().reshape(()).clone()))
            if len(self._waiting) >= _BATCH:
                self._read()
        else:
            self._keep(name, step, float(value))

    def curve(self, name: str) -> list[Point]:
        """A curve's points so far, in the order they were logged; waits for the device if some are tensors there."""
        self._read()
        return self._curves[name]

    def readings(self) -> list[CurveReading]:
        """What the curves say (`read_curves`); empty if neither loss was logged."""
        if self._readings is None:
            train, held_out, rates = (self.curve(name) for name in (TRAIN, VALIDATION, RATE))
            self._readings = read_curves(train, held_out, rates=rates) if train or held_out else []
        return self._readings

    def of_kind(self, *kinds: CurveKind) -> list[CurveReading]:
        """Those readings that are of one of these kinds."""
        return [reading for reading in self.readings() if reading.kind in kinds]

    def place(self, reading: CurveReading) -> Place | None:
        """The user's line that logged the curve a reading is about."""
        return self.places.get(TRAIN if reading.curve == "training" else VALIDATION)

    def repeats(self, name: str) -> int:
        """How many of a curve's last values are the very same number, bit for bit."""
        values = [value for _, value in self.curve(name)]
        return next((n for n, value in enumerate(reversed(values)) if value != values[-1]), len(values))

    def _follow(self, run: Run, step: int) -> None:
        """Begin anew where other optimizers than before have stepped, and none of those."""
        before = self._steps
        stepped = [each for each in run.recorder.ledger.owners() if each.steps != before.get(each, 0)]
        if before and stepped and not any(each in before for each in stepped):
            self._waiting.clear()
            for name, curve in self._curves.items():
                curve.clear()
                self._strides[name] = 1
                self._told[name] = 0
            self._steps, self.since = {}, step
        for each in stepped:
            self._steps[each] = each.steps

    def _read(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        import torch

        values: dict[int, float] = {}
        for device in {value.device for _, _, value in waiting}:
            here = [n for n, (_, _, value) in enumerate(waiting) if value.device == device]
            read = torch.stack([waiting[n][2].float() for n in here]).tolist()
            values |= dict(zip(here, read, strict=True))
        for n, (name, step, _) in enumerate(waiting):
            self._keep(name, step, values[n])

    def _keep(self, name: str, step: int, value: float) -> None:
        curve = self._curves[name]
        curve.append((float(step), value))
        if len(curve) > _MOST:
            self._strides[name] *= 2
            del curve[1::2]
