"""A child process that may train, before it does: nothing of loopkit runs in it but four light wrappers.

Most children never train (workers of a DataLoader): they must not pay for a watch. One that makes an optimizer,
wraps a model in DDP, clears gradients or runs backward wakes, and is watched from that call on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a child needs to join the run of the process that started it.

    Args:
        folder: where parts are written.
        checks: classes in a forked child; `"module:Class"` in one that begins anew.
        user_folders: code that is the user's though it is installed.
        thresholds: numbers of checks that were set otherwise, by rule.
    """

    folder: str
    checks: tuple[Any, ...]
    user_folders: tuple[str, ...]
    thresholds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


class Asleep:
    """Waits for the first sign of training, then calls `wake` once, and the call goes on as if it had been watched.

    Args:
        ticket: handed to `wake`.
        wake: opens a watch; called when nothing of this is left in torch.
        also: more that counts as a sign, each a class or module and the name of a function in it.
    """

    def __init__(self, ticket: Ticket, wake: Callable[[Ticket], None], also: Sequence[tuple[Any, str]] = ()) -> None:
        import torch

        self._ticket = ticket
        self._wake = wake
        self._signs = [  # of optimizers and DDP, what their constructors call: a warning there names its caller
            (torch.optim.Optimizer, "_patch_step_function"),
            (torch.optim.Optimizer, "zero_grad"),
            (torch.autograd, "backward"),
            (torch.nn.parallel.DistributedDataParallel, "_ddp_init_helper"),
            *also,
        ]
        self.wait()

    def wait(self) -> None:
        """Begin to wait, or begin again after `dismiss`."""
        global sleeping
        self._over = False
        self._triggers = [_Trigger(owner, name, self.rouse) for owner, name in self._signs]
        sleeping = self

    def rouse(self) -> None:
        """Training begins, or a watch is opened by hand."""
        if self.dismiss():
            self._wake(self._ticket)

    def dismiss(self) -> bool:
        """Wait no longer; whether it had waited until now."""
        global sleeping
        if self._over:
            return False
        self._over = True
        sleeping = None
        self.sweep()
        return True

    def sweep(self) -> None:
        """Take the wrappers away; once more, when what somebody had patched on top of one is gone."""
        for trigger in reversed(self._triggers):
            trigger.undo()


sleeping: Asleep | None = None
"""What waits in this process, or None."""


class _Trigger:
    """A wrapper that rouses, and then calls whatever stands in its place."""

    def __init__(self, owner: Any, name: str, rouse: Callable[[], None]) -> None:
        from torch.compiler import is_dynamo_compiling

        original = self._original = getattr(owner, name)
        self._owner, self._name = owner, name
        self._own = vars(owner).get(name)

        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if is_dynamo_compiling():
                return original(*args, **kwargs)
            # Beneath somebody else's patch, or kept by name: calling what stands there would come back here.
            on_top = vars(owner).get(name) is wrapper
            rouse()
            if not on_top or vars(owner).get(name) is wrapper:  # which a patch that is gone by now had put back
                return original(*args, **kwargs)
            return getattr(owner, name)(*args, **kwargs)

        self._wrapper = wrapper
        setattr(owner, name, wrapper)

    def undo(self) -> None:
        """Put the original back, unless somebody has patched on top."""
        if vars(self._owner).get(self._name) is not self._wrapper:
            return
        setattr(self._owner, self._name, self._own)
