"""Where in a model a value stops being finite: its forward once more, on a copy, every module's output looked at.

Done once, when a loss is known to be bad and the weights are not: on copies of the model and of what it was given,
without gradients, with every random state put back. What cannot be copied, or holds hooks of the user's own, whose
effects would be the user's too, is not replayed.
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from loopkit.models import unwrapped
from loopkit.unseen import unseen

_MOST = 1 << 28
"""Elements of a model that is copied, at most."""
_DEEPEST = 4  # containers within containers


@dataclass(frozen=True, slots=True)
class Origin:
    """Where values were first seen that are not finite.

    Args:
        kind: "input" (the model was given them), "module" (its inputs were finite and its output is not), "around"
            (between modules: what it was given is not finite, though all that modules returned before is), "loss"
            (after the model: all that its modules returned is finite), "target" and "operation" (there too: its
            targets are not finite, or it takes a logarithm of, or divides by, what it cannot), "weights" (parameters
            were not finite before the forward), or "" where that is not known.
        name: of the module, from the outermost on, of the input, or of the operation.
        type: the module's class.
        bad, total: how many values of how many: of an input, a module's output, targets, or what is operated on.
        why: why it is not known.
    """

    kind: str
    name: str = ""
    type: str = ""
    bad: int = 0
    total: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Given:
    """What a model was called with, and the autocast state then."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    autocast: tuple[str, torch.dtype] | None


def given_to(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Given:
    """What is needed to call it once more."""
    device = next((each.device.type for each in module.parameters()), "cpu")
    try:
        cast = torch.is_autocast_enabled(device)
        autocast = (device, torch.get_autocast_dtype(device)) if cast else None
    except (RuntimeError, TypeError):  # a device that knows no autocast
        autocast = None
    return Given(module, args, kwargs, autocast)


def origin_of(given: Given) -> Origin:
    """Where the forward of these inputs first made something that is not finite."""
    with unseen():
        for name, tensor in tensors_in((given.args, dict(given.kwargs))):
            bad = count_of_bad(tensor)
            if bad:
                return Origin("input", name, bad=bad, total=tensor.numel())
        obstacle = _obstacle(given.module)
        if obstacle:
            return Origin("", why=obstacle)
        try:
            with random_states(given.module):
                return _replayed(given)
        except Exception as error:  # noqa: BLE001 - a copy of anybody's model may fail in any way
            return Origin("", why=f"a copy of {type(given.module).__name__} could not be run again: {error!r}")


def _obstacle(module: nn.Module) -> str:
    """Why a model is not run again; "" if it may be."""
    hooks = torch.nn.modules.module
    if hooks._global_forward_hooks or hooks._global_forward_pre_hooks:
        return "hooks on all modules are installed"
    size = 0
    for each in module.modules():
        called = [*each._forward_hooks.values(), *each._forward_pre_hooks.values()]
        if any(not _is_of_torch(hook) for hook in called):
            return f"hooks are installed on its {type(each).__name__}"
        size += sum(
            tensor.numel() for tensor in (*each._parameters.values(), *each._buffers.values()) if tensor is not None
        )
    return "it is too large to be copied" if size > _MOST else ""


def _is_of_torch(hook: Any) -> bool:
    return str(getattr(hook, "__module__", None) or type(hook).__module__).startswith("torch.")


def _replayed(given: Given) -> Origin:
    found: list[Origin] = []
    inner = unwrapped(given.module)
    model: nn.Module = copy.deepcopy(inner)
    names = {id(each): _join(type(inner).__name__, name) for name, each in model.named_modules()}

    def returned(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if found:
            return
        for _, tensor in tensors_in(output):
            bad = count_of_bad(tensor)
            if bad:
                clean = not any(count_of_bad(each) for _, each in tensors_in((args, kwargs)))
                kind = "module" if clean else "around"
                name, label = names[id(module)], type(module).__name__
                found.append(Origin(kind, name, label, bad, tensor.numel()))
                return

    for each in model.modules():
        each.register_forward_hook(returned, with_kwargs=True)
    args, kwargs = copied(given.args), copied(dict(given.kwargs))
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if given.autocast is not None:
            stack.enter_context(torch.autocast(*given.autocast))
        model(*args, **kwargs)
    return found[0] if found else Origin("loss")


def _join(root: str, name: str) -> str:
    return f"{root}.{name}" if name else root


def count_of_bad(tensor: torch.Tensor) -> int:
    """How many values are NaN or +inf: masks are made of -inf, which alone is no fault."""
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.is_meta or not tensor.numel():
        return 0
    values = tensor.detach()
    if values.is_sparse:
        values = values._values()
    if values.is_complex():
        return int((~values.isfinite()).sum())
    return int((values.isnan() | values.isposinf()).sum())


def tensors_in(value: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, torch.Tensor]]:
    """Plain tensors in nested containers, each with where it lies."""
    if isinstance(value, torch.Tensor):
        if type(value) in (torch.Tensor, nn.Parameter) and value.layout in (torch.strided, torch.sparse_coo):
            yield name, value
    elif depth < _DEEPEST:
        held = value.items() if isinstance(value, Mapping) else ()
        for key, each in enumerate(value) if isinstance(value, (list, tuple)) else held:
            yield from tensors_in(each, _key(name, key, depth), depth + 1)


def _key(name: str, key: Any, depth: int) -> str:
    """Where a tensor lies among (args, kwargs): "argument 1", "argument 'ids'", "argument 1['ids']"."""
    if depth == 0:
        return ""
    return f"argument {key + 1 if isinstance(key, int) else repr(key)}" if depth == 1 else f"{name}[{key!r}]"


def copied(value: Any) -> Any:
    """The same with tensors of its own, detached."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if type(value) in (list, tuple):
        return type(value)(copied(each) for each in value)
    if type(value) is dict:
        return {key: copied(each) for key, each in value.items()}
    return copy.deepcopy(value)


@contextmanager
def random_states(model: nn.Module) -> Iterator[None]:
    """Put every random state back: Python's, NumPy's if it is in use, torch's on the CPU and the model's devices."""
    numpy = sys.modules.get("numpy")
    python, arrays = random.getstate(), numpy.random.get_state() if numpy is not None else None
    devices = {each.device.index or 0 for each in model.parameters() if each.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices=sorted(devices)):
            yield
    finally:
        random.setstate(python)
        if numpy is not None:
            numpy.random.set_state(arrays)
