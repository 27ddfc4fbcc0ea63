"""What the gradient ledger writes down: whose contributions each parameter's `.grad` holds."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch

from loopkit.doubt import Doubt
from loopkit.signature import bits_of

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from loopkit.callsite import Site
    from loopkit.efforts import Effort
    from loopkit.lineage import Life

_NEVER = 1 << 62
KEPT_MARKS = 4  # of a long window only the first and last contributions are kept, so memory stays flat


class Mark:
    """One backward's contribution: at which tick of the ledger's clock, from where, of which batch."""

    __slots__ = ("batch", "claim", "claimed_at", "inputs", "reached", "site", "tick", "users")

    def __init__(self, tick: int, site: Site | None, batch: int, inputs: int) -> None:
        self.tick = tick
        self.site = site
        self.batch = batch
        self.inputs = inputs
        self.claimed_at = _NEVER  # the tick of the first step, of any optimizer, that used this backward
        self.claim: tuple[int, str, Site | None] | None = None  # that optimizer's number and label, and the step
        self.reached = 0  # the optimizers whose parameters it added to, and those that have used it: a bit for each
        self.users = 0


class State:
    """What one parameter's `.grad` holds, shared by all parameters with the same history; compared by identity."""

    __slots__ = ("count", "fresh", "used", "written")

    def __init__(
        self, used: tuple[Mark, ...] = (), fresh: tuple[Mark, ...] = (), count: int = 0, written: bool = False
    ) -> None:
        self.used = used
        self.fresh = fresh
        self.count = count
        self.written = written

    def contributed(self, mark: Mark) -> State:
        """With one more backward's gradients added."""
        fresh = (*self.fresh, mark)
        if len(fresh) > KEPT_MARKS:
            fresh = fresh[:2] + fresh[-2:]
        return State(self.used, fresh, self.count + 1, self.written)


EMPTY = State()
Wiped = tuple[Mark, "Site | None", int, bool, int]


def is_zero(rate: object) -> bool:
    """Whether a learning rate is 0. One that lives on a device is not read."""
    if isinstance(rate, torch.Tensor) and rate.device.type != "cpu":
        return False
    return bool(rate == 0)


def nothing() -> None:
    """Stands where a weak reference to a gradient would, while there is none."""


class Owner:
    """One optimizer and the ledger's columns for its parameters, in the order of its groups."""

    # fmt: off
    __slots__ = (
        "bits", "blank", "column", "doubt", "each_moved_at", "effort", "ids", "keeps_grads", "label", "last_site",
        "last_tick", "life", "moved_at", "number", "offers", "optimizer", "refs", "sharded", "steps", "stock",
        "uniform", "versions", "wiped",
    )
    # fmt: on

    def __init__(self, optimizer: Optimizer, number: int, forget: Callable[[Any], None]) -> None:
        self.optimizer = weakref.ref(optimizer, forget)
        self.number = number
        self.bits = bits_of(number)
        self.label = type(optimizer).__name__ if number == 0 else f"{type(optimizer).__name__} #{number + 1}"
        # Of torch's own optimizers it is known that a step without gradients does nothing.
        self.stock = getattr(type(optimizer).step, "__module__", "").startswith("torch.optim")
        self.keeps_grads: bool | None = None  # its step leaves `.grad` as it is; known from the first step on
        self.ids: list[int] = []
        self.refs: list[Callable[[], Tensor | None]] = []
        self.versions: list[int] = []
        self.blank = True  # no parameter has a gradient
        # One state for all parameters, the usual case, or a column of them: one of the two is always None.
        self.uniform: State | None = EMPTY
        self.column: list[State] | None = None
        self.steps = 0
        self.offers = 0  # executed steps and those a GradScaler skipped
        self.last_site: Site | None = None
        self.last_tick = 0
        # Autograd's sequence number at the last executed step that had gradients: nodes made later have larger ones.
        # Where a step had them for some parameters only, each has a number of its own, in the order of the columns.
        self.moved_at = 0
        self.each_moved_at: list[int] | None = None
        self.doubt = Doubt()
        self.sharded = False  # its gradients are DTensors: only their local part counts changes
        self.wiped: list[Wiped] = []
        self.effort: Effort | None = None  # None until a step was looked at
        self.life: Life | None = None  # None where its constructor was not heard

    @property
    def made(self) -> Site | None:
        """Where it was constructed; None where that was not heard."""
        return self.life.line.site if self.life is not None else None

    def parameters(self) -> list[Tensor]:
        """The optimizer's parameters as its groups list them now; none once it is gone."""
        optimizer = self.optimizer()
        if optimizer is None:
            return []
        groups = getattr(optimizer, "param_groups", ())  # none yet while its constructor runs
        return list(chain.from_iterable(group["params"] for group in groups))

    def rates(self) -> tuple[float, ...]:
        """The learning rate of each group; none where one is a tensor, which is not read, or once it is gone."""
        groups = getattr(self.optimizer(), "param_groups", ())
        rates = [group.get("lr") for group in groups]
        return tuple(map(float, rates)) if all(isinstance(rate, int | float) for rate in rates) else ()

    def moved(self, number: int) -> None:
        """A step was executed while autograd's sequence number was `number`: what has a gradient was moved by it."""
        column = self.column
        if column is None:
            if self.uniform is not EMPTY:
                self.moved_at, self.each_moved_at = number, None
            return
        before = self.each_moved_at or [self.moved_at] * len(column)
        if len(before) != len(column):  # of newcomers it is not known
            before = [0] * len(column)
        self.each_moved_at = [
            number if state.fresh or state.used else last for state, last in zip(column, before, strict=True)
        ]

    def states(self) -> list[State]:
        """The state of each parameter."""
        if self.column is not None:
            return self.column
        assert self.uniform is not None
        return [self.uniform] * len(self.versions)

    def set_states(self, states: list[State]) -> None:
        """Replace the column; as one state where all are the same."""
        first = states[0] if states else EMPTY
        if states.count(first) == len(states):
            self.uniform, self.column = first, None
        else:
            self.uniform, self.column = None, states

    def version(self, grad: Tensor | None) -> int:
        """How often a gradient was changed in place; -1 for none."""
        if grad is None:
            return -1
        local = getattr(grad, "_local_tensor", grad) if self.sharded else grad
        version: int = local._version
        return version

    def empty(self) -> None:
        """No parameter has a gradient any more."""
        count = len(self.versions)
        self.refs, self.versions = [nothing] * count, [-1] * count
        self.uniform, self.column = EMPTY, None
        self.blank = True
