"""The optimizers that one place in the program constructs, one after the other, and what each of them leaves behind.

Parameters are compared by identity, held weakly: an address is used again. That somebody wrote to them in between,
as loops do that start each task from the same weights, shows in `_version`, which steps raise evenly; or, through
`.data`, in values alone: a few are kept after each step of an optimizer that seems to go on where another had ended.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from loopkit.samples import can_be_sampled, differ, sample_of
from loopkit.unseen import unseen

if TYPE_CHECKING:
    from torch import Tensor

    from loopkit.callsite import Site
    from loopkit.holdings import Owner

_SAMPLED = 8
_SURE = 4  # times that values are compared: each waits for the device
_KEPT = 64  # lives of a line of which the number of steps is remembered


class Line:
    """The optimizers constructed at one place.

    Attributes:
        site: that place.
        label: of the latest.
        again: how many came over the parameters of the one before, with its settings and the weights it had left.
        verified: of how many it is known that the weights had the values that the last step had left.
        otherwise: how many came with anything else, after one that had stepped.
        steps: executed by each of those that were replaced so, the latest of them.
        epochs: for each, whether it trained on one pass over a loader that others have trained on.
        memory: steps after which these optimizers have mostly forgotten a gradient; 0 for those that keep nothing.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self.label = ""
        self.again = 0
        self.verified = 0
        self.otherwise = 0
        self.steps: deque[int] = deque(maxlen=_KEPT)
        self.epochs: deque[bool] = deque(maxlen=_KEPT)
        self.memory = 0.0
        self._last: tuple[Life, Owner] | None = None

    def came(self, life: Life, owner: Owner) -> None:
        """An optimizer of this line has got its parameters."""
        before, self._last = self._last, (life, owner)
        self.label, self.memory = owner.label, _memory_of(owner)
        if before is None or not before[1].steps:
            return
        # One that was given a state takes up what the one before it knew, as well as what it left.
        restored = bool(getattr(owner.optimizer(), "state", None))
        if not restored and before[0].is_taken_up_by(life, before[1].steps):
            self._counted(before[0], before[1].steps, life)
        else:
            self.otherwise += 1

    def _counted(self, before: Life, steps: int, life: Life) -> None:
        untouched = before.is_untouched(steps) if self.verified < _SURE else True
        if untouched is False:
            self.otherwise += 1 + self.again  # so were those before it, in all likelihood
            self.again = self.verified = 0
            return
        self.verified += untouched is True
        self.again += 1
        self.steps.append(steps)
        passes, trained = (now - then for now, then in zip(life.passes, before.passes, strict=True))
        self.epochs.append(trained == 1 and (passes > 0 or self.again == 1))


class Life:
    """What one optimizer of a line held when it was made.

    Args:
        line: it belongs to.
        passes: before it was made: those over loaders that train, but for the first of each; and those of all that
            were trained on.
    """

    __slots__ = (
        "_after",
        "_before",
        "_count",
        "_each",
        "_left",
        "_left_at",
        "_sample",
        "_settings",
        "line",
        "passes",
    )

    def __init__(self, line: Line, passes: tuple[int, int]) -> None:
        self.line = line
        self.passes = passes
        self._sample: list[Callable[[], Tensor | None]] = []
        self._settings: list[dict[str, Any]] = []
        self._count = 0
        self._before = self._after = self._each = 0
        self._left: Tensor | None = None
        self._left_at = 0

    def holds(self, owner: Owner, parameters: Sequence[Tensor]) -> None:
        """What its groups list; told when they are first looked at, before it steps, and after changes."""
        if self._count:
            return
        self._count = len(parameters)
        self._sample = [weakref.ref(each) for each in parameters[:: max(1, len(parameters) // _SAMPLED)]]
        self._settings = [_settings_of(group) for group in getattr(owner.optimizer(), "param_groups", ())]
        self._before = self._versions()
        self.line.came(self, owner)
        if self.line.again and self.line.verified < _SURE:
            owner.doubt.suspect()  # its values are kept from now on, after each step

    def stepped(self) -> None:
        """Its first step was executed."""
        self._after = self._versions()
        self._each = self._after - self._before
        self.leaves(1)

    def leaves(self, steps: int) -> None:
        """Its latest step was executed: keep a few values as that has left them."""
        parameter = self._sample[0]() if self._sample else None
        self._left_at = steps
        self._left = sample_of(parameter) if parameter is not None and can_be_sampled(parameter) else None

    def is_untouched(self, steps: int) -> bool | None:
        """Whether those values are the same now; None where they were not kept at the last of so many steps."""
        parameter = self._sample[0]() if self._sample else None
        if parameter is None or self._left is None or self._left_at != steps or not can_be_sampled(parameter):
            return None
        now = sample_of(parameter)
        if now.shape != self._left.shape or now.dtype != self._left.dtype or now.device != self._left.device:
            return False
        with unseen(), suppress(RuntimeError, NotImplementedError):  # a fake tensor has no values
            return not bool(differ(now, self._left))
        return None

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
