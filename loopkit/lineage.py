"""The optimizers that one place in the program constructs, one after the other, and what each of them leaves behind.

Parameters are compared by identity, held weakly: an address is used again. That somebody wrote to them in between,
as loops do that start each task from the same weights, shows in `_version`, which steps raise evenly.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from loopkit.callsite import Site
    from loopkit.holdings import Owner

_SAMPLED = 8
_KEPT = 64  # lives of a line of which the number of steps is remembered


class Line:
    """The optimizers constructed at one place.

    Attributes:
        site: that place.
        label: of the latest.
        again: how many came over the parameters of the one before, with its settings and the weights it had left.
        otherwise: how many came with anything else, after one that had stepped.
        steps: executed by each of those that were replaced so, the latest of them.
        passes: over loaders that train, begun in each such life.
        memory: steps after which these optimizers have mostly forgotten a gradient; 0 for those that keep nothing.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self.label = ""
        self.again = 0
        self.otherwise = 0
        self.steps: deque[int] = deque(maxlen=_KEPT)
        self.passes: deque[int] = deque(maxlen=_KEPT)
        self.memory = 0.0
        self._last: tuple[Life, Owner] | None = None

    def came(self, life: Life, owner: Owner) -> None:
        """An optimizer of this line has got its parameters."""
        before, self._last = self._last, (life, owner)
        self.label, self.memory = owner.label, _memory_of(owner)
        if before is None or not before[1].steps:
            return
        if before[0].is_taken_up_by(life, before[1].steps):
            self.again += 1
            self.steps.append(before[1].steps)
            self.passes.append(life.passes - before[0].passes)
        else:
            self.otherwise += 1


class Life:
    """What one optimizer of a line held when it was made.

    Args:
        line: it belongs to.
        passes: over loaders that train, begun before it was made.
    """

    __slots__ = ("_after", "_before", "_count", "_each", "_sample", "_settings", "line", "passes")

    def __init__(self, line: Line, passes: int) -> None:
        self.line = line
        self.passes = passes
        self._sample: list[Callable[[], Tensor | None]] = []
        self._settings: list[dict[str, Any]] = []
        self._count = 0
        self._before = self._after = self._each = 0

    def holds(self, owner: Owner, parameters: Sequence[Tensor]) -> None:
        """What its groups list; told when they are first looked at, before it steps, and after changes."""
        if self._count:
            return
        self._count = len(parameters)
        self._sample = [weakref.ref(each) for each in parameters[:: max(1, len(parameters) // _SAMPLED)]]
        self._settings = [_settings_of(group) for group in getattr(owner.optimizer(), "param_groups", ())]
        self._before = self._versions()
        self.line.came(self, owner)

    def stepped(self) -> None:
        """Its first step was executed."""
        self._after = self._versions()
        self._each = self._after - self._before

    def is_taken_up_by(self, other: Life, steps: int) -> bool:
        """Whether another goes on where this one has ended, after so many steps: the same but for its state."""
        pairs = zip(self._sample, other._sample, strict=False)
        same = self._count == other._count and self._settings == other._settings
        written = self._versions() - self._after - self._each * (steps - 1)
        return same and not written and all(one() is not None and one() is two() for one, two in pairs)

    def _versions(self) -> int:
        total = 0
        with suppress(RuntimeError):  # of inference tensors, which count nothing
            for known in self._sample:
                parameter = known()
                total += parameter._version if parameter is not None else 0
        return total


def _settings_of(group: dict[str, Any]) -> dict[str, Any]:
    """A group's plain settings; what lives in tensors is not read."""
    return {key: value for key, value in group.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_is_plain(each) for each in value)
    return isinstance(value, (bool, int, float, str))


def _memory_of(owner: Owner) -> float:
    """How many steps these settings look back: of a momentum of 0.9, 10."""
    group: dict[str, Any] = next(iter(getattr(owner.optimizer(), "param_groups", ())), {})
    momentum = group.get("momentum", 0)
    betas = group.get("betas")
    if isinstance(betas, tuple) and betas:
        momentum = betas[0] or betas[-1]
    momentum = momentum or group.get("alpha", 0) or group.get("rho", 0)
    return 1 / (1 - momentum) if isinstance(momentum, float) and 0 < momentum < 1 else 0.0
