"""When the graph of a loss is read: always where an accumulation window forms, whole in the first updates."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from loopkit.draws import Draws
from loopkit.finiteness import Finiteness
from loopkit.graphwalk import Walk
from loopkit.kept import Kept
from loopkit.ledger import Ledger
from loopkit.levels import Levels
from loopkit.lossgraph import LossGraph, Part, RawLoss
from loopkit.making import Making
from loopkit.models import Models
from loopkit.modes import Modes
from loopkit.moves import Moves
from loopkit.survey import Survey
from loopkit.units import Units
from loopkit.weights import Weights

if TYPE_CHECKING:
    from loopkit.holdings import Owner

_ALWAYS_WALKED = 4
"""Updates at the start of a run of which every graph is walked; later those numbered by a power of two."""
_NOVEL = 64
"""Updates after one of a new signature that are walked as well, at most: something may have been unfrozen."""
_GIVEN = ("grad_tensors", "grad_variables")
_WALKS = 32
"""Walks within one update; a loop that never steps, or a long window, is not walked at every backward."""


class Losses:
    """Reads losses on a schedule.

    Attributes:
        wanted: whether the next backward is read at all.
        backwards: of this update, read so far.
        first: whether the first backward of this update was to be read too.
        graph: the instrument that reads.
        survey: compares what losses reach with what optimizers own.
        error: why nothing is read any more, or None.
        on_walk: called with each walk.
        planned: whether this update is one of those that are looked at.
        walking: whether graphs are walked whole in it: if it is planned, and somebody asks.
        weights: what the parameters were when the last forward ended, while walking.
        making: hears and reads loss functions, while walking.
        levels: losses of a few updates.
        finite: watches for losses that are not finite.
        moves: looks at what steps do to a few weights.
        modes: which modules were in training mode, and which in evaluation mode.
        draws: random numbers of a few forwards.
        kept: which graphs are alive long after their backward.
        units: looks at activations.
    """

    def __init__(self, ledger: Ledger, models: Models) -> None:
        self.graph = LossGraph()
        self.planned = self.walking = self._asked = True
        self.wanted = self.first = True
        self.error: Exception | None = None
        self.making = Making(models)
        self.on_walk: Callable[[Walk], None] | None = None
        self._ledger = ledger
        self.weights = Weights(ledger)
        self.levels = Levels()
        self.modes = Modes()
        self.draws = Draws()
        self.kept = Kept()
        self.survey = Survey(models, ledger)
        self.finite = Finiteness(ledger, models)
        self.finite.is_hooked = self.graph.is_hooked
        self.moves = Moves()
        self.units = Units()
        self._updates = 0
        self._novel = 0
        self.backwards = 0
        self._sent: list[Callable[[], object]] = []  # roots of this update, weakly
        self._parts: dict[Part, int] = {}  # what made them, and which backward sent them

    def instruments(self) -> dict[type[Any], Any]:
        """What checks may ask for, by its class."""
        return {Finiteness: self.finite, Kept: self.kept, Modes: self.modes, Moves: self.moves, Units: self.units}

    def read(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> RawLoss | None:
        """What the graph of the tensors that `torch.autograd.backward` was called with says."""
        self.backwards += 1
        if self.error is not None:
            return None
        try:
            if self.walking:
                self.making.watch(False)
            given = args[0] if args else kwargs.get("tensors")
            several = [given] if isinstance(given, torch.Tensor) else given or ()
            roots = [each for each in several if isinstance(each, torch.Tensor)]  # the rest are edges of a graph
            if not roots:
                return None
            read = self.graph.factors(roots[0])
            if roots[0]._backward_hooks or any(_arguments(args, kwargs).get(name) is not None for name in _GIVEN):
                read.terms = ()  # what the loss weighs is said elsewhere
            if self.walking and self.backwards <= _WALKS:
                self._walk(read, roots, _arguments(args, kwargs))
            return read
        except Exception as error:  # noqa: BLE001
            self._fail(error)
            return None

    def sample(self, args: tuple[Any, ...], kwargs: dict[str, Any], update: int) -> None:
        """The loss of an update that is sampled is sent backward."""
        if self.error is None:
            try:
                root = args[0] if args else kwargs.get("tensors")
                self.levels.sample(root, update, self.graph, len(self._ledger.known))
            except Exception as error:  # noqa: BLE001
                self._fail(error)

    def forward_began(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The outermost module is called with gradients on, in an update whose graphs are walked."""
        self.finite.forward_began(module, args, kwargs)
        if self.error is None:
            try:
                self.graph.doors.entered(module, args, kwargs)
                self.making.watch(True)
                self.modes.trains(module, args)
                self.draws.forward_began()
            except Exception as error:  # noqa: BLE001
                self._fail(error)

    def forward_ended(self, steps: int) -> None:
        """The outermost forward ended, in an update whose graphs are walked, after so many steps."""
        if self.error is not None:
            return
        try:
            self.draws.forward_ended(steps, self._ledger.owners(), self.levels.site)
            self.weights.remember()
        except Exception as error:  # noqa: BLE001
            self._fail(error)

    def stepped(self, owner: Owner) -> None:
        """An optimizer step was executed, in an update whose graphs are walked."""
        if self.error is None:
            try:
                self.moves.stepped(owner, self.weights.stepped(owner))
                self.modes.stepped()
            except Exception as error:  # noqa: BLE001
                self._fail(error)
        self.finite.stepped()

    def _fail(self, error: Exception) -> None:
        """An unheard-of kind of graph or tensor costs these checks, not the others."""
        self.error = error
        self.making.watch(False)
        self.weights.forget()
        self.graph.doors.forget()
        if os.environ.get("LOOPKIT_RAISE"):
            raise error

    def _walk(self, read: RawLoss, roots: list[torch.Tensor], asked: dict[str, Any]) -> None:
        walk = Walk(roots)
        if self.on_walk is not None:
            self.on_walk(walk)
        root = roots[0]
        strays, missed = self.survey.of(walk, self._updates)
        idle = self.survey.newcomers.idle
        read.walked = {
            "walked": True,
            "leaf": all(each.grad_fn is None for each in roots),
            "opaque": tuple(walk.opaque),
            "zeroes": tuple(walk.zeroes),
            "reaches": tuple(
                walk.reach(owner, missed.get(owner.number, ()), idle(owner)) for owner in self._ledger.owners()
            ),
            "parameters": any(isinstance(leaf.tensor, torch.nn.Parameter) for leaf in walk.leaves.values()),
            "strays": strays,
            "repeated": any(known() is root for known in self._sent),
            "retained": bool(asked.get("retain_graph")),
            "double": bool(asked.get("create_graph")),
            "selective": asked.get("inputs") is not None,
            "dtype": str(root.dtype).removeprefix("torch."),
            "casts": tuple(sorted(walk.casts.items())),
        }
        autocast = _autocast(root.device.type)
        if autocast:
            read.walked |= {"autocast": autocast, "wide": walk.products_in("float32")}
        self.units.walked(walk.nodes, self.graph.is_hooked, self._updates)
        read.walked["repeats"] = self._repeats(roots, asked)
        read.changed = self.weights.changed(walk)
        self.making.sent(read, walk, missed, self.graph.is_hooked)
        self._sent.append(weakref.ref(root))
        self.modes.sent(walk)
        sent = self.modes.recorder.backwards if self.modes.recorder is not None else 0
        retained = bool(read.walked["retained"])
        read.walked["spare"] = self.kept.sent(walk, self._updates + 1, sent, retained=retained)

    def _repeats(self, roots: list[torch.Tensor], asked: dict[str, Any]) -> int | None:
        """Which backward of this update had sent this loss, or a part of its sum, in the same ordinary way."""
        given = any(asked.get(name) is not None for name in (*_GIVEN, "inputs"))
        if len(roots) != 1 or roots[0].numel() != 1 or given:
            return None
        parts = self.graph.parts(roots[0])
        before = next((self._parts[part] for part in parts if part in self._parts), None)
        if parts and not asked.get("create_graph"):
            self._parts.setdefault(parts[0], self.backwards - 1)
        return before

    def ask(self, asked: bool) -> None:
        """Whether anybody wants to know what graphs say: for nobody none is walked, and no loss function heard."""
        self._asked = asked
        self.walking = self.planned and asked

    def closed(self, updates: int, seen: int) -> None:
        """An update closed, the `updates`-th of the run and the `seen`-th of its signature: plan the next one."""
        following, walked = updates + 1, self.walking
        self._updates = updates
        self.planned = following <= _ALWAYS_WALKED or following & (following - 1) == 0
        if seen == 1 and self._novel < _NOVEL:
            self._novel += 1
            self.planned = True
        self.walking = self.planned and self._asked
        if walked:
            self.making.closed(walking=self.walking)
        if not self.walking:
            self.weights.forget()
        is_window = self.backwards + (not self.first) > 1
        self.wanted = self.first = self.walking or is_window
        self.backwards = 0
        self._sent.clear()
        self._parts.clear()
        self.graph.forget_hooked()
        self.graph.doors.forget()
        self.finite.forget()
        self.modes.update_closed()


def _arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `torch.autograd.backward` by name."""
    names = ("tensors", "grad_tensors", "retain_graph", "create_graph", "grad_variables", "inputs")
    return dict(zip(names, args, strict=False)) | kwargs


def _autocast(device: str) -> str:
    """The type that autocast casts to on this kind of device; "" where it is off."""
    try:
        if torch.is_autocast_enabled(device):
            return str(torch.get_autocast_dtype(device)).removeprefix("torch.")
    except (RuntimeError, TypeError):
        pass  # a device that knows no autocast
    return ""
