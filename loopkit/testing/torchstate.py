"""A picture of every place in torch where loopkit, or a plugin, could leave something behind."""

from __future__ import annotations

import contextlib
import inspect
import multiprocessing.spawn
from collections.abc import Iterator
from typing import Any

import torch
import torch.utils.checkpoint
from torch.distributed import distributed_c10d
from torch.nn.modules import module as torch_module
from torch.nn.utils import clip_grad
from torch.optim import lr_scheduler
from torch.optim import optimizer as torch_optimizer
from torch.utils.data import dataloader

from loopkit import asleep
from loopkit.watching import current_run

_OWNERS: tuple[Any, ...] = (
    torch._C._nn,
    torch.nn.functional,
    torch.autograd,
    torch.Tensor,
    torch.nn.utils,
    clip_grad,
    torch.amp.GradScaler,
    torch.utils.checkpoint.CheckpointFunction,
    torch.optim.Optimizer,
    torch.nn.parallel.DistributedDataParallel,
    torch.nn.Module,
    distributed_c10d,
    dataloader.DataLoader,
    dataloader._BaseDataLoaderIter,
    dataloader._SingleProcessDataLoaderIter,
    dataloader._MultiProcessingDataLoaderIter,
    *(value for value in vars(lr_scheduler).values() if inspect.isclass(value)),
)

_DYNAMOS = ("__init__", "__setstate__")
"""What Dynamo itself wraps when it compiles the first module of a process."""


@contextlib.contextmanager
def assert_torch_untouched() -> Iterator[None]:
    """Hold that what runs inside leaves torch as it was: no watch open, nothing patched, no global hook added.

    Compared are the functions of torch that a training loop calls, by identity, those of every module and scheduler
    class, and torch's tables of global hooks.

    Raises:
        AssertionError: something was left; the message names each. Not raised over an exception from inside.
    """
    __tracebackhide__ = True
    if asleep.sleeping is not None:
        asleep.sleeping.dismiss()  # what waits for this test to train would be gone at its end, and be a difference
    before = picture()
    yield
    left = differences(before, picture())
    if left:
        raise AssertionError(f"torch is not as it was: {', '.join(sorted(left))}")


def picture() -> dict[str, object]:
    """Every attribute of the patched modules and classes, every `__call__` of a module class, every hook table."""
    seen: dict[str, object] = {
        "run": current_run(),
        "multiprocessing.spawn.get_preparation_data": multiprocessing.spawn.get_preparation_data,
        "torch.save": torch.save,
        "torch.load": torch.load,
        "torch.kl_div": torch.kl_div,
        "torch.binary_cross_entropy_with_logits": torch.binary_cross_entropy_with_logits,
    }
    for owner in _OWNERS:
        for name, value in vars(owner).items():
            if callable(value) and not (owner is torch.nn.Module and name in _DYNAMOS):
                seen[f"{owner.__name__}.{name}"] = value
    for cls in _module_classes():
        for name in ("__call__", "train", "zero_grad", "state_dict", "load_state_dict"):
            seen[f"{cls.__module__}.{cls.__qualname__}.{name}"] = vars(cls).get(name)
    for module, names in (
        (torch_module, [name for name in vars(torch_module) if name.startswith("_global_")]),
        (torch_optimizer, ["_global_optimizer_pre_hooks", "_global_optimizer_post_hooks"]),
    ):
        for name in names:
            table = getattr(module, name)
            seen[name] = dict(table) if isinstance(table, dict) else table
    return seen


def differences(before: dict[str, object], after: dict[str, object]) -> list[str]:
    """What is not the identical object it was. New classes are nobody's patch, unless they carry a `__call__`."""
    found = []
    for name, value in after.items():
        if name in before:
            # A class's `step` is replaced once by torch itself, when its first optimizer is made.
            same = value == before[name] if isinstance(value, dict) else value is before[name]
            if not same and not getattr(value, "hooked", False):
                found.append(name)
        elif value is not None and getattr(value, "__module__", "").startswith("loopkit"):
            found.append(name)
    return found


def _module_classes() -> list[type[Any]]:
    found: list[type[Any]] = []
    waiting: list[type[Any]] = [torch.nn.Module]
    while waiting:
        cls = waiting.pop()
        if (
            "GraphModuleImpl" not in cls.__qualname__
        ):  # fx makes one for each graph, each with a `__call__` of its own
            found.append(cls)
        waiting += type.__subclasses__(cls)
    return found
