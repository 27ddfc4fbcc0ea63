"""One `DistributedDataParallel`: which parameters its reducer reduces, and whether it still does.

A reducer holds the node that accumulates each parameter's gradient. A conversion of device or dtype gives the
parameter another node and leaves its identity: so nodes are compared, and kept no longer than the wrapper lives.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn.parallel import DistributedDataParallel

from loopkit import ranks

if TYPE_CHECKING:
    from torch import Tensor, nn

    from loopkit.callsite import Site
    from loopkit.finding import Place

_SYNCHRONOUS = ("allreduce", "fp16_compress", "bf16_compress", "powerSGD", "PowerSGD", "quantization")
"""Parts of the names of torch's hooks for communication after which all ranks hold the same gradients."""


class _Covered(NamedTuple):
    name: str
    parameter: Callable[[], Tensor | None]
    trained: bool
    node: Any


class Wrap:
    """A wrapper that was constructed while the watch was open, or met when it was called.

    Args:
        ddp: kept weakly.
        number: counts wrappers of a run, the same on all ranks of a healthy one.
        site: where it was constructed; None where that was not seen, and then nodes are not compared.

    Attributes:
        label: what it is around.
        ranks: of its process group.
        rank: of this process.
        largest: elements of its largest parameter.
        loads: where `load_state_dict` was called on what it is around, since.
    """

    def __init__(self, ddp: DistributedDataParallel, number: int, site: Site | None) -> None:
        self.ddp = weakref.ref(ddp, self._gone)
        self.number = number
        self.site = site
        self.label = type(ddp.module).__name__
        self.ranks = ranks_of(ddp)
        self.rank = ranks.rank()
        self.loads: list[Site] = []
        # Otherwise it reduces by other hooks, or changes the nodes itself.
        plain = not getattr(ddp, "_use_python_reducer", False) and getattr(ddp, "mixed_precision", None) is None
        nodes = site is not None and plain
        self._covered = {id(each): _cover(name, each, nodes) for name, each in named(ddp)}
        self.largest = max((each.numel() for _, each in named(ddp)), default=0)

    def _gone(self, _: object) -> None:
        self._covered.clear()

    @property
    def synchronises(self) -> bool:
        """Whether a backward after an armed forward leaves the same gradients on all ranks, as far as is known."""
        ddp = self.ddp()
        if ddp is None or len(self.ranks) < 2 or getattr(ddp, "_delay_all_reduce_all_params", False):
            return False
        hooks = [getattr(hook, "__name__", "") for hook, _ in getattr(ddp, "_comm_hooks", ())]
        return all(any(part in name for part in _SYNCHRONOUS) for name in hooks)

    def holds(self, module: nn.Module) -> bool:
        """Whether a module is, or lies in, what this is put around."""
        ddp = self.ddp()
        return ddp is not None and any(each is module for each in ddp.module.modules())

    def lies_in(self, module: nn.Module) -> bool:
        """Whether a module other than this has it somewhere inside."""
        ddp = self.ddp()
        return ddp is not None and module is not ddp and any(each is ddp for each in module.modules())

    def call_of(self, site: Site) -> Place:
        """The line outside the model's own code from which a part of it was called."""
        ddp = self.ddp()
        kinds = {type(each).__name__ for each in ddp.module.modules()} if ddp is not None else set()
        outside = (place for place in site.chain if place.function.partition(".")[0] not in kinds)
        return next(outside, site.place)

    def uncovered(self, parameter: Tensor) -> str:
        """Why the reducer does not reduce the gradient of a parameter; "" where it does, or nothing is known."""
        known = self._covered.get(id(parameter))
        if known is None or known.parameter() is not parameter:
            return "put in"
        if not known.trained:
            return "unfrozen"
        if known.node is not None and parameter.requires_grad and _node(parameter) is not known.node:
            return "moved or cast"
        return ""

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """The parameters that are to be the same on all ranks, as they are now."""
        ddp = self.ddp()
        return iter(()) if ddp is None else named(ddp)


def named(ddp: DistributedDataParallel) -> Iterator[tuple[str, Tensor]]:
    """What a wrapper is to keep the same on all ranks: no parameter it was told to ignore."""
    ignored = ddp.parameters_to_ignore
    for name, parameter in ddp.module.named_parameters():
        if name not in ignored and type(parameter) in (torch.nn.Parameter, torch.Tensor):
            yield name, parameter


def ranks_of(ddp: DistributedDataParallel) -> tuple[int, ...]:
    """The ranks, among all, of a wrapper's process group; () where that cannot be told."""
    distributed = sys.modules.get("torch.distributed")
    try:
        return tuple(distributed.get_process_group_ranks(ddp.process_group)) if distributed is not None else ()
    except (AttributeError, RuntimeError, ValueError, KeyError):
        return ()


def _cover(name: str, parameter: Tensor, nodes: bool) -> _Covered:
    trained = parameter.requires_grad
    return _Covered(name, weakref.ref(parameter), trained, _node(parameter) if nodes and trained else None)


def _node(parameter: Tensor) -> Any:
    return torch.autograd.graph.get_gradient_edge(parameter).node
