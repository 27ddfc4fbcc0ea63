"""Tensor operations of our own, which no dispatch mode of the user's is to see."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch._C import _len_torch_dispatch_stack
from torch._ops import mode_stack_state_for_pre_dispatch
from torch.utils._python_dispatch import _disable_current_modes

_NOTHING = nullcontext()


def unseen() -> AbstractContextManager[object]:
    """Dispatch modes (FLOP counters, fake tensors, tracers) are off inside; without any it costs nothing."""
    if _len_torch_dispatch_stack() or mode_stack_state_for_pre_dispatch().count():  # type: ignore[no-untyped-call]
        return _disable_current_modes()
    return _NOTHING
