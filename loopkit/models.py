"""The models of a run: its outermost modules, held weakly, and the names of their parameters, made when asked for.

A module is met when it is called, in updates whose losses are walked. Which submodules run is known from the first
forwards, while every call is heard (`taps/module.py`). Layers in a plain list, tuple, dict or object are found
too: torch does not register them, and they have a name all the same, `Net.blocks[0].weight`.
"""

from __future__ import annotations

import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

_ROOTS = 64  # outermost modules known; a loop that makes a new model each time must not grow without bound
_SUBMODULES = 20_000
_ITEMS = 10_000  # of a plain container
_DEEPEST = 4  # containers within containers
_WRAPPERS = {"DistributedDataParallel": "module", "DataParallel": "module", "OptimizedModule": "_orig_mod"}
_INTERNAL = frozenset(vars(nn.Module()))
_BARE = len(_INTERNAL)  # attributes of a module that has none of its own


class Spot(NamedTuple):
    """Where a module or parameter was found.

    Attributes:
        name: from the outermost module on, `Net.blocks[0].weight`.
        module: the module itself, or the one that holds the parameter.
        parents: the modules around it, outermost first.
        loose: name of the plain container or object it lies in; "" where all is registered.
    """

    name: str
    module: nn.Module
    parents: tuple[nn.Module, ...]
    loose: str


class Models:
    """Remembers which modules were called, and finds things in them."""

    def __init__(self) -> None:
        self._roots: dict[int, Callable[[], nn.Module | None]] = {}
        self._called: dict[int, Callable[[], nn.Module | None]] = {}

    def met(self, module: nn.Module) -> None:
        """An outermost module is called; of DDP and compiled ones, what they are put around."""
        self.ran(module)
        module = unwrapped(module)
        key = id(module)
        known = self._roots.get(key)
        if known is None or known() is not module:
            self._roots.pop(key, None)
            if len(self._roots) >= _ROOTS:
                del self._roots[next(iter(self._roots))]
            self._roots[key] = weakref.ref(module)

    def ran(self, module: nn.Module) -> None:
        """A module is called; it counts in training mode, with gradients on."""
        if module.training and torch.is_grad_enabled() and len(self._called) < _SUBMODULES:
            self._called[id(module)] = weakref.ref(module)

    def was_called(self, module: nn.Module) -> bool:
        """Whether this module, or one inside it, was seen to be called in training mode with gradients on."""
        return any(self._is_called(each) for each in module.modules())

    def _is_called(self, module: nn.Module) -> bool:
        known = self._called.get(id(module))
        return known is not None and known() is module

    def roots(self) -> list[nn.Module]:
        """The outermost modules that are alive and not part of another one, oldest first."""
        alive = [module for known in list(self._roots.values()) if (module := known()) is not None]
        if len(alive) == 1:
            return alive
        inner = {id(each) for module in alive for each in module.modules() if each is not module}
        return [module for module in alive if id(module) not in inner]

    def modules(self) -> Iterator[Spot]:
        """Every module of every root, registered ones first, each once."""
        seen: set[int] = set()
        loose: deque[Spot] = deque()
        waiting = [Spot(type(root).__name__, root, (), "") for root in reversed(self.roots())]
        while waiting or loose:
            spot = waiting.pop() if waiting else loose.popleft()
            if id(spot.module) in seen:
                continue
            seen.add(id(spot.module))
            yield spot
            parents = (*spot.parents, spot.module)
            for name, child in reversed(spot.module._modules.items()):
                if child is not None:
                    waiting.append(Spot(f"{spot.name}.{name}", child, parents, spot.loose))
            if len(vars(spot.module)) > _BARE:
                held = list(_held(spot))
                loose += [Spot(name, each, parents, at) for name, at, each in held if isinstance(each, nn.Module)]

    def parameters(self) -> dict[int, Spot]:
        """Every parameter of every root, by `id`; the ids hold only as long as the models do."""
        found: dict[int, Spot] = {}
        spots = list(self.modules())
        for spot in spots:
            parents = spot.parents
            for name, parameter in spot.module._parameters.items():
                if parameter is not None:
                    found.setdefault(id(parameter), Spot(f"{spot.name}.{name}", spot.module, parents, spot.loose))
        for spot in spots:  # a list of registered parameters is common, and no reason to call them loose
            for name, at, each in _held(spot):
                if isinstance(each, nn.Parameter):
                    found.setdefault(id(each), Spot(name, spot.module, spot.parents, spot.loose or at))
        return found


def unwrapped(module: nn.Module) -> nn.Module:
    """What DDP or a compiled module is put around; any other module is itself."""
    while isinstance(inner := getattr(module, _WRAPPERS.get(type(module).__name__, ""), None), nn.Module):
        module = inner
    return module


def _held(spot: Spot) -> Iterator[tuple[str, str, Any]]:
    """Modules and parameters that a module holds and has not registered: name, name of what holds them, object."""
    for key, value in list(vars(spot.module).items()):
        if key not in _INTERNAL and not isinstance(value, (nn.Module, nn.Parameter)):
            at = f"{spot.name}.{key}"
            for name, each in _items(value, at, 1):
                yield name, at, each


def _items(holder: Any, name: str, depth: int) -> Iterator[tuple[str, Any]]:
    for inner, value in _inside(holder, name):
        if isinstance(value, (nn.Module, nn.Parameter)):
            yield inner, value
        elif depth < _DEEPEST:
            yield from _items(value, inner, depth + 1)


def _inside(holder: Any, name: str) -> list[tuple[str, Any]]:
    """What a plain container, or an object of a class of the user's own, holds; with names."""
    if isinstance(holder, (list, tuple, dict)):
        if len(holder) > _ITEMS:
            return []
        pairs: Iterable[tuple[Any, Any]] = holder.items() if isinstance(holder, dict) else enumerate(holder)
        return [(f"{name}[{key!r}]" if isinstance(key, (str, int)) else f"{name}[…]", each) for key, each in pairs]
    kind = type(holder)
    if kind.__module__ in ("builtins", "torch") or isinstance(holder, type) or _is_installed(kind):
        return []
    return [(f"{name}.{key}", each) for key, each in list(getattr(holder, "__dict__", {}).items())]


def is_own(spot: Spot) -> bool:
    """Whether the innermost class around a module that is not one of torch's is the user's own."""
    for parent in reversed(spot.parents):
        if not type(parent).__module__.startswith("torch."):
            return not _is_installed(type(parent))
    return True


def _is_installed(cls: type[Any]) -> bool:
    """Whether a class comes from an installed package or the standard library."""
    module = cls.__module__.partition(".")[0]
    if module in sys.stdlib_module_names:
        return module != "__main__"
    file = getattr(sys.modules.get(cls.__module__), "__file__", None) or ""
    return "site-packages" in file or "dist-packages" in file
