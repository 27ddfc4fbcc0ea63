"""Losses that are not finite: noticed without waiting for the device, and traced to where they began.

Each loss that is sent backward is kept as a detached scalar, and 64 or more of them are read in one transfer, so the
first bad one is known exactly, if late. In updates whose graphs are walked the loss is read at once, before the step
that would lose the weights: then the forward is replayed on a copy (`replay.py`), and the module is known too.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch._C import _len_torch_dispatch_stack

from loopkit.lossfault import fault_of
from loopkit.replay import Given, Origin, given_to, origin_of
from loopkit.unseen import unseen

if TYPE_CHECKING:
    from torch import Tensor, nn

    from loopkit.callsite import Site
    from loopkit.ledger import Ledger
    from loopkit.models import Models

NOT_FINITE = 1 << 12
"""Bit of the shape of a backward, in a signature, by which an update is new to checks when a bad loss is known."""
_FEWEST, _MOST = 64, 1024
"""Losses read in one transfer; on a device whose transfer the program would wait for, ever more of them."""
_SOON = 8  # backwards after a bad loss on the CPU, when a step has made of it what it will
_TOLD = 4  # bad losses that are told of
_NAMED = 6  # parameters named


@dataclass(frozen=True, slots=True)
class BadLoss:
    """A loss that was sent backward and is not finite.

    Args:
        value: NaN or an infinity.
        site: the backward.
        step: optimizer steps that had been executed before.
        batch: its number, from 1; 0 where batches are not known.
        before: losses before it, as far as they are known, the latest last.
        origin: where it began.
        parameters: how many optimizers have; None where that could not be asked.
        lost: of those, how many are not finite after the step that followed.
        lost_before: of those, how many were not finite before this loss was made; None where that is not known.
        names: of a few that were not finite, before if there were any.
        outcome: what became of its gradients: "stepped", "skipped" (a GradScaler left the step out), or "" (no step
            followed, or it is not known).
        late: how many backwards later it was noticed.
    """

    value: float
    site: Site
    step: int
    batch: int
    before: tuple[float, ...]
    origin: Origin
    parameters: int | None = None
    lost: int = 0
    lost_before: int | None = None
    names: tuple[str, ...] = ()
    outcome: str = ""
    late: int = 0


class Finiteness:
    """Watches losses. An instrument of the run, fed by its recorder.

    Attributes:
        error: why it does so no more, or None.
        is_hooked: whether asking a node of a graph for what it saved would run hooks.
    """

    def __init__(self, ledger: Ledger | None = None, models: Models | None = None) -> None:
        self.error: Exception | None = None
        self.is_hooked: Callable[[Any], bool] = bool
        self._ledger = ledger
        self._models = models
        self._kept: list[tuple[Tensor, Site, int, int]] = []
        self._room = _FEWEST
        self._before: deque[float] = deque(maxlen=256)
        self._given: Given | None = None
        self._pending: BadLoss | None = None
        self._found: list[BadLoss] = []
        self._told = 0

    # -- what the recorder tells -------------------------------------------------------------------------

    def forward_began(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A forward with gradients, in an update whose graphs are walked: its inputs are held until its backward."""
        try:
            self._given = given_to(module, args, kwargs) if self._told < _TOLD else None
        except Exception as error:  # noqa: BLE001
            self._fail(error)

    def forget(self) -> None:
        """What the forward was given is held no longer."""
        self._given = None

    def sent(self, args: tuple[Any, ...], site: Site, steps: int, batches: int, at_once: bool) -> int:
        """A loss is sent backward; `NOT_FINITE` if a bad one is known by now, else 0.

        Args:
            args: of `torch.autograd.backward`.
            site, steps, batches: of the backward.
            at_once: read it now.
        """
        if self._told >= _TOLD or not args:
            return 0
        loss = args[0]
        if type(loss) is not torch.Tensor or loss.dim() or _len_torch_dispatch_stack():
            return self._sent_otherwise(loss, site, steps, batches, at_once)
        try:
            kept = self._kept
            if at_once and not (kept and self._room == _SOON):
                return self._read() | self._look(loss, site, steps, batches)
            if loss.is_cpu and not kept:  # there is no device to wait for: a third of what keeping it would cost
                value = loss.item()
                if value - value == 0:
                    self._before.append(value)
                else:  # judged a little later, when it is known what became of the weights
                    kept.append((loss.detach().clone(), site, steps, batches))
                    self._room = _SOON
                return 0
            if not loss._is_view():  # a view would keep what it is a view of
                kept.append((loss.detach(), site, steps, batches))
                if len(kept) >= self._room:
                    return self._read()
        except Exception as error:  # noqa: BLE001
            self._fail(error)
        return 0

    def _sent_otherwise(self, loss: Any, site: Site, steps: int, batches: int, at_once: bool) -> int:
        """A loss that is no plain scalar, or is sent under a mode of the user's: of one element, read at times."""
        if type(loss) is not torch.Tensor or loss.numel() != 1 or not at_once:
            return 0
        try:
            return self._look(loss, site, steps, batches)
        except Exception as error:  # noqa: BLE001
            self._fail(error)
        return 0

    def stepped(self) -> None:
        """An optimizer step was executed, in an update whose graphs are walked."""
        if self._pending is not None:
            self._settle("stepped")

    def skipped(self) -> None:
        """A GradScaler left the step out."""
        if self._pending is not None:
            self._settle("skipped")

    # -- what checks ask ---------------------------------------------------------------------------------

    def take(self, *, at_end: bool = False) -> list[BadLoss]:
        """Bad losses that are understood and were not taken yet; `at_end` all that are left."""
        if at_end and self.error is None:
            try:
                self._read()
                if self._pending is not None:
                    self._settle("")
            except Exception as error:  # noqa: BLE001
                self._fail(error)
        found, self._found = self._found, []
        return found

    # -- inside ------------------------------------------------------------------------------------------

    def _look(self, loss: Tensor, site: Site, steps: int, batches: int) -> int:
        given, self._given = self._given, None
        value = _value(loss)
        if value is None or math.isfinite(value):
            if value is not None:
                self._before.append(value)
            return 0
        if self._pending is not None:
            return 0
        self._told += 1
        parameters, bad = self._weights()
        if bad:
            origin = Origin("weights", bad[0])
        elif given is None:
            origin = Origin("", why="no module was called")
        else:
            origin = origin_of(given)
        if origin.kind == "loss":
            origin = fault_of(loss, self.is_hooked)
        self._pending = BadLoss(
            value,
            site,
            steps,
            batches,
            tuple(self._before),
            origin,
            parameters,
            lost_before=len(bad),
            names=tuple(bad[:_NAMED]),
        )
        return NOT_FINITE

    def _settle(self, outcome: str) -> None:
        """It is known what became of the gradients of a bad loss."""
        pending, self._pending = self._pending, None
        assert pending is not None
        parameters, bad = self._weights()
        names = pending.names or tuple(bad[:_NAMED])
        self._keep(replace(pending, lost=len(bad), names=names, outcome=outcome, parameters=parameters))

    def _keep(self, bad: BadLoss) -> None:
        self._found.append(bad)
        if bad.lost:
            self._told = _TOLD  # all that follows follows from this
            self._kept.clear()

    def _read(self) -> int:
        """Read what was kept; `NOT_FINITE` if there is a bad loss among it."""
        kept, self._kept = self._kept, []
        if not kept:
            return 0
        if kept[0][0].device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            self._kept = kept
            return 0
        if kept[0][0].device.type != "cpu":
            self._room = min(_MOST, self._room * 2)
        values = _read_all([each for each, _, _, _ in kept])
        first = next((n for n, value in enumerate(values) if not math.isfinite(value)), None)
        self._before.extend(values[:first])
        if first is None or self._pending is not None:
            return 0
        self._told += 1
        parameters, bad = self._weights()
        _, site, steps, batches = kept[first]
        late = len(kept) - first
        why = f"it was noticed {late} backwards later"
        # Weights that are whole by now were never lost: nothing repairs one that is not finite.
        origin = Origin("", why=why)
        outcome = "stepped" if bad else ""
        before, names = tuple(self._before), tuple(bad[:_NAMED])
        self._keep(
            BadLoss(
                values[first], site, steps, batches, before, origin, parameters, len(bad), None, names, outcome, late
            )
        )
        return NOT_FINITE

    def _weights(self) -> tuple[int | None, list[str]]:
        """How many parameters are trained, and the names of those that are not finite: one transfer a device."""
        every = [each for each in self._parameters() if _is_plain(each)]
        if not every:
            return None, []
        with unseen():
            flags = [each.detach().isfinite().all() for each in every]
        lost = [each for each, is_finite in zip(every, _read_all(flags), strict=True) if not is_finite]
        spots = self._models.parameters() if self._models is not None and lost else {}
        return len(every), [spots[id(each)].name if id(each) in spots else "a parameter" for each in lost]

    def _parameters(self) -> list[Tensor]:
        """Those of all optimizers; in a loop without any, those of its models."""
        owners = self._ledger.owners() if self._ledger is not None else []
        roots = self._models.roots() if self._models is not None and not owners else []
        models: list[Tensor] = [each for root in roots for each in root.parameters() if each.requires_grad]
        return [each for owner in owners for each in owner.parameters()] or models

    def _fail(self, error: Exception) -> None:
        """An unheard-of kind of tensor costs this check, not the others."""
        self.error, self._told = error, _TOLD
        self._pending = self._given = None
        self._kept.clear()
        if os.environ.get("LOOPKIT_RAISE"):
            raise error


def _is_plain(parameter: Tensor) -> bool:
    floating = parameter.is_floating_point() or parameter.is_complex()
    return type(parameter) in (torch.nn.Parameter, torch.Tensor) and floating and not parameter.is_meta


def _value(loss: Tensor) -> float | None:
    """The one read of a loss, which waits for the device; None where there is none to read."""
    if loss.is_meta or (loss.is_cuda and torch.cuda.is_current_stream_capturing()):
        return None
    with unseen():
        value = loss.detach()
        return float(value.abs() if value.is_complex() else value)


def _read_all(scalars: list[Tensor]) -> list[float]:
    """The numbers of many 0-dim tensors, in one transfer from each device."""
    numbers = [0.0] * len(scalars)
    with unseen():
        for device in {each.device for each in scalars}:
            here = [n for n, each in enumerate(scalars) if each.device == device]
            plain = [scalars[n].abs() if scalars[n].is_complex() else scalars[n] for n in here]
            for n, number in zip(
                here, torch.stack([each.reshape(()).float() for each in plain]).tolist(), strict=True
            ):
                numbers[n] = number
    return numbers
