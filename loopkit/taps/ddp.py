"""`DistributedDataParallel(…)`, `Module.load_state_dict`, collectives of the program's own: what replicas do.

None of these is an event. DDP's own communication does not pass here, nor does a forward: the wrapper of `__call__`
hears those, and patching DDP's would break graphs of a compiled one. Collectives are heard where each checks its
tensors, since they are imported by name.
"""

from __future__ import annotations

from typing import Any

import torch

from loopkit.run import Run
from loopkit.taps.patch import Handle, Tap, Taps

_CONSTRUCTION, _LOAD = 50, 51
"""Stand for these calls among those whose last site is remembered; events of an update have smaller numbers."""


def install(run: Run) -> Handle:
    """Listen to wrappers, loads and collectives."""
    if not torch.distributed.is_available():
        return Taps()
    from torch.distributed import distributed_c10d

    return Taps(
        # Which the constructor calls, and unpickling; a warning of the constructor's own names its caller.
        Tap(torch.nn.parallel.DistributedDataParallel, "_ddp_init_helper", run, after=_made),
        Tap(torch.nn.Module, "load_state_dict", run, after=_loaded),
        Tap(distributed_c10d, "_check_single_tensor", run, before=_sent),
    )


def _made(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    run.recorder.replicas.made(args[0], run.recorder.sites.here(_CONSTRUCTION))


def _loaded(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    if run.recorder.replicas.wraps:
        run.recorder.replicas.loaded(args[0], run.recorder.sites.here(_LOAD))


def _sent(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if args and isinstance(args[0], torch.Tensor):
        run.recorder.replicas.sent(args[0].numel())
